# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer calibrate`: what it makes, and what it refuses before the model is read."""

import io
import json
import sys

import pytest
from command_line import error_line

from vecinfer_hf import Codebook
from vecinfer_hf.calibration.text import load_text
from vecinfer_hf.cli.options import bits_value


def test_calibrate_then_inspect(vecinfer, tiny_model_directory, book, tmp_path):
    target = tmp_path / "codebook"
    code, out, _ = vecinfer(
        *("calibrate", tiny_model_directory, "--output", target, "--text", book, "--key-bits", 2, "--value-bits", 1),
        *("--num-tokens", 512, "--sequence-length", 256, "--num-iterations", 2, "--residual-length", 32),
    )
    assert code == 0
    assert "2 / 1" in out
    codebook = Codebook.from_pretrained(target)
    assert codebook.config.residual_length == 32
    assert codebook.provenance["texts"][0]["name"] == str(book)


def test_text_too_short_to_calibrate_leaves_nothing(vecinfer, tiny_model_directory, tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    line = error_line(
        vecinfer("calibrate", tiny_model_directory, "-o", tmp_path / "out", "--text", tmp_path / "short.txt")
    )
    assert "token" in line
    assert not (tmp_path / "out").exists()


def test_unknown_bits(vecinfer, tiny_model_directory, tmp_path):
    line = error_line(vecinfer("calibrate", tiny_model_directory, "-o", tmp_path / "out", "--key-bits", "3"))
    assert "3" in line
    assert "1.25" in line


def test_output_that_is_a_file_is_kept(vecinfer, tiny_model_directory, tmp_path):
    (tmp_path / "file").write_text("mine")
    line = error_line(vecinfer("calibrate", tiny_model_directory, "-o", tmp_path / "file"))
    assert "is a file" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_bit_widths_as_the_config_takes_them():
    assert [bits_value(text) for text in ("2", "4.0", "1.5", "d2b8")] == [2, 4, 1.5, "d2b8"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--output", "book.txt/x"), "book.txt is a file; give a directory"),
        (("--output", "x", "--allocate", 9), "allocate is 9.0; it must be a number from 1 to 4, or None"),
        (("--output", "x", "--allocate", 2, "--key-bits", 2), "--key-bits and --value-bits have no effect"),
        (("--output", "x", "--recipe", "query", "--retrieval-fraction", 0.5), "has no effect: the recipe query"),
        (("--output", "x", "--retrieval-fraction", 0.5), "has no effect: windows of 256 tokens are too short"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(
    vecinfer, monkeypatch, tiny_model_directory, book, tmp_path, given, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vecinfer_hf.cli.app.calibrate.load_weights", lambda *_: pytest.fail("loaded"))
    line = error_line(vecinfer("calibrate", tiny_model_directory, "--text", book, "--sequence-length", 256, *given))
    assert message in line
    assert sorted(path.name for path in tmp_path.iterdir() if path.name == "x") == []


def test_fast_calibration_runs_no_gradients(vecinfer, tiny_model_directory, book, tmp_path):
    arguments = ("calibrate", tiny_model_directory, "--output", tmp_path / "codebook", "--text", book, "--fast")
    assert vecinfer(*arguments, "--sequence-length", 256, "--residual-length", 32)[0] == 0
    config = Codebook.from_pretrained(tmp_path / "codebook").config
    assert (config.recipe, config.num_iterations, config.num_tokens) == ("query", 8, 16384)


def test_what_is_given_beside_fast_counts(vecinfer, tiny_model_directory, book, tmp_path):
    arguments = ("calibrate", tiny_model_directory, "--output", tmp_path / "codebook", "--text", book, "--fast")
    more = ("--sequence-length", 256, "--residual-length", 32, "--num-tokens", 20000, "--recipe", "paper", "--json")
    code, out, _ = vecinfer(*arguments, *more)
    assert code == 0
    assert json.loads(out)["directory"] == str(tmp_path / "codebook")
    config = Codebook.from_pretrained(tmp_path / "codebook").config
    assert (config.recipe, config.num_iterations, config.num_tokens) == ("paper", 8, 20000)


def test_the_default_text_is_the_first_excerpt_and_a_dash_is_standard_input(
    vecinfer, monkeypatch, tiny_model_directory, tmp_path
):
    fast = ("--fast", "--num-tokens", 256, "--sequence-length", 256, "--residual-length", 32)
    text = load_text("persuasion-excerpt")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert vecinfer("calibrate", tiny_model_directory, "-o", tmp_path / "default", *fast)[0] == 0
    assert vecinfer("calibrate", tiny_model_directory, "-o", tmp_path / "piped", "--text", "-", *fast)[0] == 0
    default, piped = (Codebook.from_pretrained(tmp_path / name).provenance["texts"] for name in ("default", "piped"))
    assert default[0]["name"] == "persuasion-excerpt"
    assert default[0]["sha256"] == piped[0]["sha256"]
