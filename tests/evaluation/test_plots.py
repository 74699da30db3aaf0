# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The plot of the shipped results is drawn, and without matplotlib the message says what to install."""

import json
import sys

import pytest

from vecinfer_hf.codebook import shipped_codebooks
from vecinfer_hf.evaluation.plots import plot_quality


RESULTS = shipped_codebooks() / "SmolLM2-135M-Instruct" / "results.json"


def test_shipped_results_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    plot_quality(json.loads(RESULTS.read_text(encoding="utf-8")), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_message_has_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        plot_quality({}, tmp_path / "plot.png")
