# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Plots of measured quality: perplexity against true bits, and what each layer's keys and values cost and get.

`python -m examples.research.plots RESULTS.json PLOT.png` draws results.json of this directory, or what
`python -m examples.research.evaluate --peers --output RESULTS.json` wrote. Owns no measurement.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot_quality(results: Mapping[str, Any], path: str | Path, bits: str = "2.0") -> None:
    """Draw results to an image file.

    Args:
        results: `table` (rows with name, bits and perplexity_ratio; those named "vecinfer ..." are joined by a line),
            `layer_bits` (mean bits -> `[key bits, value bits]` of each layer), `sensitivity` (rows with layer, side,
            bits, kl).
        path: where to; the suffix chooses the format.
        bits: which allocation of `layer_bits` to draw.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    figure = _figure((15, 4.2))
    quality, cost, chosen = figure.subplots(1, 3)

    rows = sorted(results["table"], key=lambda row: row["bits"])
    own = [row for row in rows if row["name"].startswith("vecinfer")]
    quality.plot(
        [row["bits"] for row in own], [row["perplexity_ratio"] for row in own], "o-", color="black", label="vecinfer"
    )
    for row in rows:
        if row not in own:
            quality.plot(row["bits"], row["perplexity_ratio"], "s", label=row["name"])
    quality.set(xlabel="true bits per element", ylabel="perplexity, stock cache = 1", title="Quality")
    quality.legend(fontsize=7)

    for side, color in (("key", "tab:blue"), ("value", "tab:orange")):
        single = [row for row in results["sensitivity"] if row["side"] == side and row["bits"] == 2]
        cost.plot([row["layer"] for row in single], [row["kl"] for row in single], "o-", color=color, label=side)
    cost.set(xlabel="layer", ylabel="nats per token", yscale="log", title="KL divergence of 2 bits in one side alone")
    cost.legend()

    layers = range(len(results["layer_bits"][bits]))
    for side, (name, shift) in enumerate((("key", -0.2), ("value", 0.2))):
        heights = [pair[side] for pair in results["layer_bits"][bits]]
        chosen.bar(
            [layer + shift for layer in layers], heights, 0.4, label=name, color=("tab:blue", "tab:orange")[side]
        )
    chosen.set(xlabel="layer", ylabel="bits per element", title=f"Allocation of {bits} bits")
    chosen.legend()
    figure.savefig(path, dpi=120)


def plot_peers(report: Mapping[str, Any], path: str | Path) -> None:
    """Draw a codebook among its peers: what each loses, and what it still finds, against its true bits.

    Args:
        report: what `evaluate --peers` wrote; its retrieval, if there, gets one plot per length.
        path: where to; the suffix chooses the format.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    measured = {row["name"]: row for row in report["peers"]}
    panels = [
        (
            "perplexity, excess over the stock cache",
            {n: row["perplexity_ratio"] - 1 for n, row in measured.items()},
            None,
        ),
        ("KL divergence, nats per token", {n: row["kl_divergence"] for n, row in measured.items()}, None),
    ]
    for part in report.get("retrieval", ()):
        shares = {row["name"]: row["share"] for row in part["rows"]}
        title = f"needles found, {part['length']} tokens, n = {part['samples']}"
        panels.append((title, {name: shares[name] for name in measured}, shares["stock cache"]))
    figure = _figure((4.2 * len(panels), 4.6))
    for axes, (title, values, stock) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, value in values.items():
            marker, color = ("o", "black") if name == "vecinfer" else ("s", None)
            # Below 0.0001 a loss is rounding, and a logarithm has no place for 0.
            shown = value if stock is not None else max(value, 1e-4)
            axes.plot(measured[name]["bits"], shown, marker, color=color, label=name)
        axes.set(xlabel="true bits per element", title=title)
        if stock is None:
            axes.set(yscale="log")
        else:
            axes.axhline(stock, color="gray", linestyle=":", label="stock cache")
            axes.set(ylim=(-0.03, 1.03))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7)
    figure.savefig(path, dpi=120)


def _figure(size: tuple[float, float]):
    """Return an empty figure of so many inches."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Plots need matplotlib: pip install matplotlib.", name="matplotlib") from error
    return Figure(figsize=size, layout="constrained")


def main(arguments: Sequence[str]) -> None:
    """Draw a JSON file, of either kind, to a picture: the two paths in `arguments`."""
    content = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    (plot_quality if "table" in content else plot_peers)(content, arguments[1])


if __name__ == "__main__":
    main(sys.argv[1:])
