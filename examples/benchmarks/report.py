# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What is made of measured rows: Markdown tables, a JSON file, a plot."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from .end_to_end import break_even, slope
from .measure import CHUNK, Row


def markdown(rows: list[Row], title: str) -> str:
    """Return the rows as Markdown tables, and what follows from them: break-even lengths, slope, throughput."""
    parts = [f"{title}\n"]
    decode = [row for row in rows if row.what == "decode" and row.batch_size == 1]
    contexts = sorted({row.context for row in decode})
    names = list(dict.fromkeys(row.cache for row in decode))
    if decode:
        cells = {(row.cache, row.context): row.problem or f"{row.seconds * 1e3:.2f}" for row in decode}
        body = [[name, *(cells.get((name, context), "") for context in contexts)] for name in names]
        parts.append(_table(["ms per token, batch 1", *(f"{context:,}" for context in contexts)], body))
    prefill = [row for row in rows if row.what == "prefill"]
    if prefill:
        body = [
            [
                row.cache,
                f"{row.context:,}",
                row.problem or f"{row.seconds:.2f}",
                _gigabytes(row.peak_bytes),
                _gigabytes(row.allocated_bytes),
                _gigabytes(row.weight_bytes + row.cache_bytes),
                _gigabytes(row.cache_bytes),
            ]
            for row in prefill
        ]
        head = ["prompt", "tokens", "seconds", "peak GB", "allocated GB", "weights + cache GB", "cache GB"]
        parts.append(_table(head, body))
    chunks = [row for row in rows if row.what == "chunk"]
    if chunks:
        body = [
            [row.cache, f"{row.context:,}", row.problem or f"{row.seconds:.2f}", _gigabytes(row.peak_bytes)]
            for row in chunks
        ]
        parts.append(_table([f"chunk of {CHUNK:,} tokens", "behind tokens", "seconds", "peak GB"], body))
    batches = [row for row in rows if row.what == "decode" and row.batch_size > 1]
    if batches:
        body = [
            [
                row.cache,
                f"{row.context:,}",
                str(row.batch_size),
                row.problem or f"{row.seconds * 1e3:.2f}",
                f"{row.tokens_per_second:,.0f}",
                _gigabytes(row.peak_bytes),
            ]
            for row in batches
        ]
        parts.append(_table(["largest batch", "tokens each", "batch", "ms per step", "tokens/s", "peak GB"], body))
    parts.extend(_conclusions(rows, names))
    return "\n".join(parts)


def _conclusions(rows: list[Row], names: list[str]) -> Iterable[str]:
    ours = next((name for name in names if name.startswith("vecinfer")), None)
    if ours is None:
        return
    for name in names:
        if name.startswith("vecinfer"):
            continue
        context = break_even(rows, ours, name)
        if context is not None:
            where = "at every length measured" if context == 0 else f"from {context:,.0f} tokens on"
            yield f"- {ours} takes less time per token than {name} {where}."
    gradient = slope(rows, ours)
    if gradient is not None:
        yield f"- A further 1,000 tokens of context cost {ours} {gradient * 1e9:.2f} us per token."


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f}"


def _table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write_json(rows: list[Row], about: dict, path: Path) -> None:
    """Write the rows and what they were measured on to a JSON file."""
    data = {"about": about, "rows": [row.to_dict() for row in rows]}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> tuple[list[Row], dict]:
    """Return the rows and the description that `write_json` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    rows = [Row(**{name: value for name, value in row.items() if name != "tokens_per_second"}) for row in data["rows"]]
    return rows, data["about"]


def plot(rows: list[Row], title: str, path: Path) -> None:
    """Draw time per token over the context length, with the break-even lengths marked, into an image file.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Plots need matplotlib: pip install matplotlib.", name="matplotlib") from error

    decode = [row for row in rows if row.what == "decode" and row.batch_size == 1 and not row.problem]
    names = list(dict.fromkeys(row.cache for row in decode))
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name in names:
        points = sorted((row.context, row.seconds * 1e3) for row in decode if row.cache == name)
        style = "-" if name.startswith("vecinfer") else "--"
        axes.plot(*zip(*points, strict=True), style, marker="o", markersize=3, label=name)
    ours = next((name for name in names if name.startswith("vecinfer")), None)
    for name in names:
        context = None if ours is None or name.startswith("vecinfer") else break_even(rows, ours, name)
        if context:
            axes.axvline(context, color="grey", linewidth=0.8, linestyle=":")
            axes.annotate(f"faster than {name}", (context, axes.get_ylim()[1]), rotation=90, va="top", fontsize=7)
    axes.set_xscale("log", base=2)
    ticks = sorted({row.context for row in decode})
    axes.set_xticks(ticks, [_short(tokens) for tokens in ticks])
    axes.minorticks_off()
    axes.set_yscale("log")
    axes.set_xlabel("tokens in the cache")
    axes.set_ylabel("ms per token, batch 1")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path)


def _short(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens < 1 << 20 else f"{tokens / (1 << 20):g}M"
