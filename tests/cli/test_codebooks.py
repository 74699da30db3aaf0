# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer codebooks`: what was made here is listed, shown and removed."""

import json

import pytest
from command_line import error_line
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf.codebook.kept import keep, kept_codebook


FINGERPRINT = "abcdef012345" + "0" * 52


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("VECINFER_CODEBOOKS", str(tmp_path))
    codebook = random_codebook(tiny_config("llama"))
    codebook.weights_fingerprint = FINGERPRINT
    codebook.metrics["held_back"] = {"kl_divergence": 0.0123, "perplexity_ratio": 1.0045}
    place = kept_codebook(FINGERPRINT, "2bit")
    keep(place, codebook)
    return place


def test_list_show_and_remove(kept, vecinfer):
    def output(*words):
        code, out, _ = vecinfer("codebooks", *words)
        assert code == 0
        return out

    assert "abcdef012345/2bit" in output("list")
    assert "0.0123" in output("list")
    (row,) = json.loads(output("list", "--json"))["codebooks"]
    assert row["ratio"] == 1.0045
    assert row["nbytes"] == sum(path.stat().st_size for path in kept.directory.iterdir())
    assert json.loads(output("show", "abc", "--json"))["weights_fingerprint"] == FINGERPRINT
    assert "directory" in output("show", "abc")
    output("remove", "abcdef012345/2bit")
    assert not kept.directory.exists()
    assert "None in" in output("list")


@pytest.mark.slow
def test_make_keeps_or_saves(tiny_model_directory, tmp_path, monkeypatch, vecinfer, book):
    monkeypatch.setenv("VECINFER_CODEBOOKS", str(tmp_path / "kept"))
    words = ("codebooks", "make", tiny_model_directory, "--budget", 0.3, "--key-bits", 2, "--text", book, "--json")
    code, out, _ = vecinfer(*words)
    made = json.loads(out)
    assert code == 0
    assert made["directory"].startswith(str(tmp_path / "kept"))
    assert made["metrics"]["held_back"]["text"] == "northanger-excerpt"
    (row,) = json.loads(vecinfer("codebooks", "list", "--json")[1])["codebooks"]
    assert row["fingerprint"] == made["weights_fingerprint"]
    code, out, _ = vecinfer(*words, "--output", tmp_path / "saved")
    assert code == 0
    assert (tmp_path / "saved" / "codebook.safetensors").is_file()


def test_make_refuses_a_bad_budget_before_weights_are_read(tiny_model_directory, monkeypatch, vecinfer):
    monkeypatch.setattr("vecinfer_hf.cli.codebooks.load_weights", lambda *_: pytest.fail("loaded"))
    assert "budget is -1" in error_line(vecinfer("codebooks", "make", tiny_model_directory, "--budget", -1))


def test_a_damaged_one_is_listed_with_the_reason(kept, vecinfer):
    (kept.directory / "codebook.safetensors").write_bytes(b"")
    _, out, _ = vecinfer("codebooks", "list", "--json")
    assert "cannot be read" in json.loads(out)["codebooks"][0]["model"]


def test_a_name_that_is_not_there_is_refused(kept, vecinfer):
    assert "no kept codebook" in error_line(vecinfer("codebooks", "remove", "123"))
    assert kept.directory.exists()
