# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer evaluate --peers --needles --output` and `vecinfer calibrate --fast`, on a tiny model."""

import json
import sys

import pytest

from vecinfer_hf import Codebook
from vecinfer_hf.cli.app import main


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 120)
    return path


def test_peers_and_needles_are_printed_and_written(
    capsys, monkeypatch, tiny_model_directory, tiny_codebook_directory, book, tmp_path
):
    monkeypatch.setenv("COLUMNS", "160")
    arguments = ("evaluate", tiny_model_directory, "-c", tiny_codebook_directory, "--text", book)
    arguments += ("--window-length", 200, "--max-windows", 1, "--peers", "--needles", 2, "--needle-text", book)
    assert run(*arguments, "--needle-length", 300, "--output", tmp_path / "report.json") == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    names = [row["name"] for row in report["peers"]]
    assert names[0] == "vecinfer"
    assert any("KIVI" in name for name in names)
    assert {row["measure"] for row in report["margins"]} >= {"perplexity_ratio", "kl_divergence", "top1_agreement"}
    # Tables are cut to the terminal's width, so only their titles are looked for.
    assert "Peers" in out
    (found,) = report["retrieval"]
    assert (found["samples"], found["length"]) == (2, 300)
    assert [row["name"] for row in found["rows"]] == ["stock cache", *names]
    assert "Numbers" in out


def test_plain_product_quantization_names_its_text(tiny_model_directory, book, tmp_path):
    calibration = ("--text", book, "--fast", "--sequence-length", 256, "--residual-length", 32)
    assert run("calibrate", tiny_model_directory, "--output", tmp_path / "codebook", *calibration) == 0
    other = tmp_path / "other.txt"
    other.write_text(book.read_text()[7:])
    arguments = ("evaluate", tiny_model_directory, "-c", tmp_path / "codebook", "--text", book, "--max-windows", 1)
    arguments += ("--window-length", 100, "--output", tmp_path / "report.json")
    assert run(*arguments, "--peers", "--plain", book, "--plain", other) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [text["same_as_codebook"] for text in report["plain_texts"]] == [True, False]
    assert report["peers"][1]["name"] == "plain product quantization, 2 bits"
    assert not any("plain" in line for line in report["left_out"])
    assert run(*arguments, "--plain", book) == 2


def test_what_cannot_be_asked_together_is_refused(capsys, tiny_model_directory, book):
    arguments = ("evaluate", tiny_model_directory, "-c", "online", "--text", book, "--window-length", 300)
    assert run(*arguments, "--max-windows", 1, "--peers") == 2
    assert "leave them out" in capsys.readouterr().err.replace("\n", " ")
    assert run(*arguments, "--max-windows", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["prompt_length"] == 150


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--needles", 4, "--needle-questions", 9), "--needle-questions is 9, but a text has --needle-keys 4"),
        (("--output", "."), "--output . is a directory"),
        (("--output", "nowhere/report.json"), "--output nowhere/report.json is a directory or in none"),
        (("-c", "./nowhere"), "There is no directory ./nowhere here, and the package's own codebooks are Qwen2.5"),
        (("-c", "a/b/c"), "It cannot be a Hub repository either"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(
    capsys, monkeypatch, tiny_codebook_directory, book, given, message
):
    monkeypatch.setattr("vecinfer_hf.cli.app.evaluate.load_model", lambda *_: pytest.fail("loaded"))
    assert run("evaluate", "model", "-c", tiny_codebook_directory, "--text", book, *given) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--output", "book.txt/x"), "book.txt is a file; give a directory"),
        (("--output", "x", "--allocate", 9), "allocate is 9.0; it is a mean of bits per element, from 1 to 4"),
    ],
)
def test_what_is_wrong_is_said_before_calibration(
    capsys, monkeypatch, tiny_model_directory, book, tmp_path, given, message
):
    monkeypatch.chdir(tmp_path)
    module = sys.modules["vecinfer_hf.calibration.calibrate"]
    monkeypatch.setattr(module, "calibration_windows", lambda *_: pytest.fail("read"))
    assert run("calibrate", tiny_model_directory, "--text", book, "--sequence-length", 256, *given) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name == "x") == []


def test_separators_are_put_into_the_windows(capsys, monkeypatch, tiny_model_directory, tiny_codebook_directory, book):
    arguments = (
        "evaluate",
        tiny_model_directory,
        "-c",
        tiny_codebook_directory,
        "--text",
        book,
        "--window-length",
        300,
    )
    arguments += ("--max-windows", 2, "--json")
    reports = []
    for share in (0, 1):
        assert run(*arguments, "--separators", share) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert [report["separators"] for report in reports] == [0, 1]
    assert reports[0]["perplexity_stock"] != reports[1]["perplexity_stock"]
    monkeypatch.setattr("vecinfer_hf.cli.app.evaluate.separator_ids", lambda tokenizer, vocab_size: [])
    assert run(*arguments, "--separators", 0.5) == 2
    assert "--separators 0.5 needs special tokens" in capsys.readouterr().err.replace("\n", " ")


def test_fast_calibration_runs_no_gradients(tiny_model_directory, book, tmp_path):
    arguments = ("calibrate", tiny_model_directory, "--output", tmp_path / "codebook", "--text", book, "--fast")
    assert run(*arguments, "--sequence-length", 256, "--residual-length", 32) == 0
    config = Codebook.from_pretrained(tmp_path / "codebook").config
    assert (config.recipe, config.num_iterations, config.num_tokens) == ("query", 8, 16384)
