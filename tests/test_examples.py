# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The examples run as their docstrings say, on a tiny model saved to a directory. The Hub one is in test_hub_story."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_codebooks import random_codebook
from tiny_models import tiny_model

from vecinfer_hf import Codebook
from vecinfer_hf.assets import load_text


EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory, smollm2_path):
    """A tiny random llama with the demo model's tokenizer and vocabulary."""
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    tokenizer.save_pretrained(directory)
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(directory)
    return directory


def run(name, *arguments):
    """Run an example and return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_generate(model_directory, tmp_path):
    model = tiny_model("llama", vocab_size=49152)
    random_codebook(model.config).save_pretrained(tmp_path / "codebook")
    printed = run("generate.py", model_directory, "--codebook", tmp_path / "codebook", "--max-new-tokens", 12)
    assert "The three ways agree: True" in printed
    assert "the stock cache takes" in printed


def test_calibrate(model_directory, tmp_path):
    (tmp_path / "book.txt").write_text(load_text("persuasion-excerpt"), encoding="utf-8")
    printed = run(
        *("calibrate.py", model_directory, "--text", tmp_path / "book.txt", "--output", tmp_path / "codebook"),
        *("--tokens", 1024, "--sequence-length", 256),
    )
    assert "2 bits per element" in printed or "3 bits per element" in printed
    codebook = Codebook.from_pretrained(tmp_path / "codebook")
    assert codebook.provenance["tokens"] == 1024
    assert codebook.provenance["texts"][0]["name"] == "book.txt"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_is_short_and_says_what_it_needs(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    assert "# /// script" in text
