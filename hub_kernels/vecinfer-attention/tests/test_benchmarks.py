# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks that CARD.md names run; the quickest one prints its table on a GPU."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import ROOT


def test_the_card_names_them():
    named = re.findall(r"^python (benchmarks/\S+)", (ROOT / "CARD.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(named) >= 3
    assert all((ROOT / name).is_file() for name in named)


@pytest.mark.gpu
def test_append_prints_its_table(kernel):
    command = [sys.executable, str(ROOT / "benchmarks" / "benchmark_append.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "| d4b8 |" in done.stdout
