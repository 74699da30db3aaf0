# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m examples.research.evaluate` on a tiny model: what it measures, prints, writes and refuses."""

import json

import pytest

from examples.research.evaluate import main
from vecinfer_hf.cli.app import main as vecinfer


def run(*arguments, command=main):
    with pytest.raises(SystemExit) as stopped:
        command([str(argument) for argument in arguments])
    return stopped.value.code or 0


@pytest.fixture
def book(tmp_path):
    """A small text file."""
    path = tmp_path / "book.txt"
    path.write_text("The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 120)
    return path


def test_peers_and_needles_are_printed_and_written(
    capsys, monkeypatch, tiny_model_directory, tiny_codebook_directory, book, tmp_path
):
    monkeypatch.setenv("COLUMNS", "160")
    arguments = (tiny_model_directory, "-c", tiny_codebook_directory, "--text", book)
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


def test_long_greedy_texts_are_judged(capsys, tiny_model_directory, tiny_codebook_directory, book):
    arguments = (tiny_model_directory, "-c", tiny_codebook_directory, "--text", book, "--window-length", 100)
    arguments += ("--max-windows", 2, "--residual-length", 16, "--generation-tokens", 8)
    assert run(*arguments, "--json") == 0
    generation = json.loads(capsys.readouterr().out)["generation"]
    assert generation["new_tokens"] == 8
    assert 0 <= generation["agreement_length"][0] <= 8
    assert run(*arguments) == 0
    assert "until they differ" in capsys.readouterr().out


def test_plain_product_quantization_names_its_text(tiny_model_directory, book, tmp_path):
    calibration = ("--text", book, "--fast", "--sequence-length", 256, "--residual-length", 32)
    assert run("calibrate", tiny_model_directory, "-o", tmp_path / "codebook", *calibration, command=vecinfer) == 0
    other = tmp_path / "other.txt"
    other.write_text(book.read_text()[7:])
    arguments = (tiny_model_directory, "-c", tmp_path / "codebook", "--text", book, "--max-windows", 1)
    arguments += ("--window-length", 100, "--output", tmp_path / "report.json")
    assert run(*arguments, "--peers", "--plain", book, "--plain", other) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [text["same_as_codebook"] for text in report["plain_texts"]] == [True, False]
    assert report["peers"][1]["name"] == "plain product quantization, 2 bits"
    assert not any("plain" in line for line in report["left_out"])
    assert run(*arguments, "--plain", book) == 2


def test_what_cannot_be_asked_together_is_refused(capsys, tiny_model_directory, book):
    arguments = (tiny_model_directory, "-c", "online", "--text", book, "--window-length", 300)
    assert run(*arguments, "--max-windows", 1, "--peers") == 2
    assert "leave them out" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--needles", 4, "--needle-questions", 9), "--needle-questions is 9, but a text has --needle-keys 4"),
        (("--output", "."), "--output . is a directory"),
        (("--output", "nowhere/report.json"), "--output nowhere/report.json is a directory or in none"),
        (("--generation-prompts", 2), "--generation-prompts has no effect without --generation-tokens"),
        (("--needle-text", "persuasion-excerpt"), "--needle-text has no effect without --needles"),
        (("--needle-length", 300), "--needle-length has no effect without --needles"),
        (("--needle-keys", 4), "--needle-keys has no effect without --needles"),
        (("--needle-questions", 1), "--needle-questions has no effect without --needles"),
        (("--needles", 0, "--needle-seed", 1), "--needle-seed has no effect without --needles"),
        (("--task-questions", 5), "--task-questions has no effect without --tasks"),
        (("--plain", "persuasion-excerpt"), "--plain has no effect without --peers"),
        (("-c", "./nowhere"), "There is no directory ./nowhere here"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(
    capsys, monkeypatch, tiny_codebook_directory, book, given, message
):
    monkeypatch.setattr("examples.research.evaluate.load_model", lambda *_: pytest.fail("loaded"))
    assert run("model", "-c", tiny_codebook_directory, "--text", book, *given) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_separators_are_put_into_the_windows(capsys, monkeypatch, tiny_model_directory, tiny_codebook_directory, book):
    arguments = (tiny_model_directory, "-c", tiny_codebook_directory, "--text", book, "--window-length", 300)
    arguments += ("--max-windows", 2, "--json")
    reports = []
    for share in (0, 1):
        assert run(*arguments, "--separator-fraction", share) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert [report["separator_fraction"] for report in reports] == [0, 1]
    assert reports[0]["perplexity_stock"] != reports[1]["perplexity_stock"]
    monkeypatch.setattr("examples.research.evaluate.separator_ids", lambda tokenizer, vocab_size: [])
    assert run(*arguments, "--separator-fraction", 0.5) == 2
    assert "--separator-fraction 0.5 needs special tokens" in capsys.readouterr().err.replace("\n", " ")
