# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The examples run as their docstrings say, on a tiny model saved to a directory. The Hub one is in test_hub_story."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vecinfer_hf import Codebook
from vecinfer_hf.calibration.text import load_text


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name, *arguments):
    """Run an example and return what it printed."""
    return run_python(EXAMPLES / name, *arguments)


def run_python(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_generate(tiny_model_directory, tiny_codebook_directory):
    printed = run("generate.py", tiny_model_directory, "--codebook", tiny_codebook_directory, "--max-new-tokens", 12)
    assert "The three ways agree: True" in printed
    assert "the stock cache takes" in printed


def test_calibrate(tiny_model_directory, tmp_path):
    (tmp_path / "book.txt").write_text(load_text("persuasion-excerpt"), encoding="utf-8")
    printed = run(
        *("calibrate.py", tiny_model_directory, "--text", tmp_path / "book.txt", "--output", tmp_path / "codebook"),
        *("--tokens", 1024, "--sequence-length", 256),
    )
    # Heads of 16 channels: 2 bits of codes, and the value plane of a tile has as much padding.
    assert "3 bits per element" in printed
    codebook = Codebook.from_pretrained(tmp_path / "codebook")
    assert codebook.provenance["tokens"] == 1024
    assert codebook.provenance["texts"][0]["name"] == "book.txt"


@pytest.mark.slow
def test_tensor_parallel(tiny_model_directory, tmp_path):
    (tmp_path / "book.txt").write_text(load_text("persuasion-excerpt"), encoding="utf-8")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, EXAMPLES / "tensor_parallel.py"]
    options = [tiny_model_directory, "--max-new-tokens", 12]
    made = run_python(
        *(*command, *options, "--text", tmp_path / "book.txt", "--output", tmp_path / "codebook"),
        *("--num-tokens", 1024),
    )
    again = run_python(*command, *options, "--codebook", tmp_path / "codebook")
    for printed in (made, again):
        sizes = re.search(r"of this process: ([\d,]+) bytes; of all 2: ([\d,]+)", printed)
        own, both = (int(size.replace(",", "")) for size in sizes.groups())
        assert both == 2 * own > 0
    assert made.splitlines()[-2] == again.splitlines()[-2]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("[!_]*.py")), ids=lambda path: path.name)
def test_every_example_is_short_and_says_what_it_needs(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    assert "# /// script" in text
