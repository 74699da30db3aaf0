# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The plot of the kept results is drawn, and without matplotlib the message says what to install."""

import json
import sys
from pathlib import Path

import pytest

from examples.research import plots
from examples.research.plots import main, plot_peers, plot_quality


RESULTS = Path(plots.__file__).with_name("results.json")


def test_kept_results_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    plot_quality(json.loads(RESULTS.read_text(encoding="utf-8")), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_printed_command_draws_kept_results(tmp_path):
    pytest.importorskip("matplotlib")
    main([str(RESULTS), str(tmp_path / "plot.png")])
    assert (tmp_path / "plot.png").stat().st_size > 10_000


@pytest.mark.parametrize("lengths", [(), (2048, 8192)])
def test_a_report_is_drawn(tmp_path, lengths):
    pytest.importorskip("matplotlib")
    rows = [("vecinfer", 2.0, 0.98), ("a peer", 2.5, 4.5), ("another", 3.0, 1.1)]
    peers = [{"name": n, "bits": bits, "perplexity_ratio": ratio, "kl_divergence": 0.1} for n, bits, ratio in rows]
    found = [{"name": name, "share": 0.5} for name in ("stock cache", *(row[0] for row in rows))]
    retrieval = [{"length": length, "samples": 10, "rows": found} for length in lengths]
    plot_peers({"peers": peers, "retrieval": retrieval}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_message_has_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        plot_quality({}, tmp_path / "plot.png")
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        plot_peers({"peers": []}, tmp_path / "plot.png")
