# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer convert`: format 1 becomes format 2, in place or elsewhere, with the same tensors."""

import json

import pytest
from format_1 import save_format_1
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf import Codebook
from vecinfer_hf.cli.app import main


@pytest.fixture
def old(tmp_path):
    save_format_1(random_codebook(tiny_config("llama")), tmp_path / "old")
    return tmp_path / "old"


@pytest.fixture
def convert(capsys, monkeypatch):
    """Run `vecinfer convert`: (exit code, standard output, standard error)."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(*words):
        with pytest.raises(SystemExit) as stopped:
            main(["convert", *map(str, words)])
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run


def version(directory):
    return json.loads((directory / "config.json").read_text())["format_version"]


def test_in_place(convert, old):
    tensors = (old / "codebook.safetensors").read_bytes()
    (old / "notes.txt").write_text("mine")
    code, out, _ = convert(old)
    assert (code, version(old)) == (0, 2)
    assert f"Saved in format 2 to {old}" in out
    assert (old / "codebook.safetensors").read_bytes() == tensors
    assert (old / "notes.txt").read_text() == "mine"
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    code, out, _ = convert(old)
    assert code == 0
    assert "nothing to do" in out
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before


def test_elsewhere(convert, old, tmp_path):
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    code, out, _ = convert(old, "--output", tmp_path / "new", "--json")
    assert (code, version(tmp_path / "new")) == (0, 2)
    assert json.loads(out) == {"directory": str(tmp_path / "new"), "format_version": 2, "converted": True}
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    assert Codebook.from_pretrained(tmp_path / "new").config == Codebook.from_pretrained(old).config
    # A codebook of format 2 is copied.
    assert convert(tmp_path / "new", "-o", tmp_path / "copy")[0] == 0
    for name in ("config.json", "codebook.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "new" / name).read_bytes()


def test_what_cannot_be_converted_is_one_line_and_code_2(convert, old, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    for words, part in (
        ((tmp_path / "absent",), "holds no codebook"),
        ((tmp_path / "file",), "holds no codebook"),
        ((tmp_path / "model",), "format_version"),
        ((old, "-o", tmp_path / "file"), "is a file; give a directory"),
        ((old, "-o", tmp_path / "model"), "would be lost"),
    ):
        code, out, err = convert(*words)
        assert (code, out) == (2, "")
        [line] = [line for line in err.splitlines() if line.startswith("vecinfer: ")]
        assert part in line
    assert (tmp_path / "model" / "config.json").read_text() == '{"model_type": "llama"}'
    (old / "codebook.safetensors").write_bytes(b"x")
    assert convert(old)[0] == 2
    assert version(old) == 1
