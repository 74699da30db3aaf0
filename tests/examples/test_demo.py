# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`examples/demo.py` on a tiny model, and with --slow on the real one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.py"
SMALL = ("--num-tokens", 2048, "--max-new-tokens", 4, "--window-length", 160, "--max-windows", 1)


def run(*arguments):
    """Run the demo and return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(DEMO.parents[1]), "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}
    command = [sys.executable, str(DEMO), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_on_the_real_model(smollm2_path):
    """Everything the demo does, with less text; `make demo` is the real thing."""
    printed = run(smollm2_path, *SMALL)
    assert "VecInfer cache, 2 bits per element" in printed
    assert "46,080" in printed  # 30 layers, 3 heads, 64 channels, keys and values, float32
    assert "2,880" in printed


# Heads of 16 channels: values are padded to twice their bits.
@pytest.mark.parametrize(("bits", "stored", "nbytes"), [(2, 3, 48), (4, 6, 96)])
def test_it_shows_both_continuations_and_the_table(tiny_model_directory, bits, stored, nbytes):
    printed = run(tiny_model_directory, *SMALL, "--bits", bits)
    for shown in ("Stock cache", f"VecInfer cache, {bits} bits per element", "perplexity", "KL divergence"):
        assert shown in printed
    assert re.search(rf"bits per element +32 +{stored} ", printed)
    assert re.search(rf"bytes per token +512 +{nbytes} ", printed)  # 2 layers, 2 heads, 16 channels
    assert re.search(r"share their first [0-4] tokens\. Caches after \d+ tokens of prompt and 4 of answer", printed)
