# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer evaluate`: its table and its JSON agree, and what is wrong is said before the model is loaded."""

import json

import pytest
from command_line import error_line
from tiny_codebooks import random_codebook
from tiny_models import tiny_config


def test_evaluate_json_and_table_agree(vecinfer, tiny_model_directory, tiny_codebook_directory, book):
    arguments = ("evaluate", tiny_model_directory, "--codebook", tiny_codebook_directory, "--text", book)
    arguments += ("--window-length", 100, "--max-windows", 2, "--residual-length", 16)
    code, out, _ = vecinfer(*arguments, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["tokens"] == 2 * 99
    assert report["residual_length"] == 16
    assert report["perplexity_ratio"] > 1
    assert report["model"] == str(tiny_model_directory)
    code, out, _ = vecinfer(*arguments)
    assert code == 0
    assert f"{report['perplexity_ratio']:.4f}" in out
    assert f"{report['bytes_per_token']:,.0f}" in out


def test_text_too_short_to_evaluate(vecinfer, tiny_model_directory, tiny_codebook_directory, tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    line = error_line(
        vecinfer("evaluate", tiny_model_directory, "-c", tiny_codebook_directory, "--text", tmp_path / "short.txt")
    )
    assert "tokens, but one window needs 2048" in line


def test_codebook_of_another_model(vecinfer, tiny_model_directory, tmp_path, book):
    random_codebook(tiny_config("llama_mha")).save_pretrained(tmp_path / "other")
    line = error_line(
        vecinfer("evaluate", tiny_model_directory, "-c", tmp_path / "other", "--window-length", 64, "--text", book)
    )
    assert "num_key_value_heads" in line


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("-c", "./nowhere"), "There is no directory ./nowhere here, and the package's own codebooks are Qwen2.5"),
        (("-c", "a/b/c"), "It cannot be a Hub repository either"),
        (
            ("--text", "nowhere.txt"),
            "nowhere.txt is no file; give the path of a plain text file",
        ),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(
    vecinfer, monkeypatch, tiny_codebook_directory, book, given, message
):
    monkeypatch.setattr("vecinfer_hf.cli.app.evaluate.load_weights", lambda *_: pytest.fail("loaded"))
    assert message in error_line(vecinfer("evaluate", "model", "-c", tiny_codebook_directory, "--text", book, *given))


def test_an_online_codebook_is_fitted_to_half_of_each_window(vecinfer, tiny_model_directory, book):
    arguments = ("evaluate", tiny_model_directory, "-c", "online", "--text", book, "--window-length", 300)
    code, out, _ = vecinfer(*arguments, "--max-windows", 1, "--json")
    assert code == 0
    assert json.loads(out)["prompt_length"] == 150
