# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The tables that `python -m examples.research.evaluate` prints. Owns no measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vecinfer_hf.cli.console import output, print_table


def print_continuations(report: Mapping[str, Any]) -> None:
    """Print what `judge_continuations` returned."""
    sides = report["stock"], report["vecinfer"]
    lengths = sorted(report["agreement_length"])
    print_table(
        f"{report['prompts']} greedy texts of {report['new_tokens']} tokens, read by the model with the stock cache",
        ("", "stock cache", "vecinfer"),
        [
            ("perplexity", *(f"{side['perplexity']:.3f}" for side in sides)),
            ("mean negative log-likelihood, nats", *(f"{side['nll']:.4f}" for side in sides)),
            ("tokens that repeat nothing", *(f"{100 * side['new_share']:.1f} %" for side in sides)),
            (
                "negative log-likelihood of those",
                *("" if side["nll_new"] is None else f"{side['nll_new']:.4f}" for side in sides),
            ),
            ("tokens until they differ, median", "", f"{lengths[len(lengths) // 2]}"),
            ("seconds", *(f"{side['seconds']:.1f}" for side in sides)),
        ],
    )


def print_peers(rows: Sequence[Mapping[str, Any]], left_out: Sequence[str]) -> None:
    """Print what `compare` returned, and why rows are missing."""
    print_table(
        "Peers on the same text, one pass, same window and sinks",
        ("cache", "true bits", "perplexity ratio", "KL, nats", "same next token"),
        [
            (
                row["name"],
                f"{row['bits']:.4g}",
                f"{row['perplexity_ratio']:.4f}",
                f"{row['kl_divergence']:.4f}",
                f"{100 * row['top1_agreement']:.1f} %",
            )
            for row in rows
        ],
    )
    for line in left_out:
        output.print(f"left out: {line}", markup=False, highlight=False)


def print_retrieval(part: Mapping[str, Any]) -> None:
    """Print one length of the report's retrieval."""
    print_table(
        f"Numbers found, {part['samples']} texts of {part['length']} tokens with {part['keys']} numbers each",
        ("cache", "true bits", "found", "against stock, points", "95 % interval"),
        [
            (
                row["name"],
                f"{row['bits']:.4g}",
                f"{row['hits']} ({100 * row['share']:.1f} %)",
                f"{100 * row['difference']:+.2f}" if number else "",
                f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}" if number else "",
            )
            for number, row in enumerate(part["rows"])  # the first is the stock cache
        ],
    )


def print_tasks(report: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what `task_report` returned of each task."""
    print_table(
        "Few-shot questions, every token reading codes",
        (
            "task",
            "questions",
            "right, stock",
            "vecinfer",
            "95 % of the difference",
            "bits per byte, stock",
            "vecinfer",
        ),
        [
            (
                f"{name} ({row['measure']})",
                str(row["questions"]),
                f"{100 * row['stock']['share']:.1f} %",
                f"{100 * row['vecinfer']['share']:.1f} %",
                f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}",
                f"{row['stock']['bits_per_byte']:.4f}",
                f"{row['vecinfer']['bits_per_byte']:.4f}",
            )
            for name, row in report.items()
        ],
    )


def print_margins(rows: Sequence[Mapping[str, Any]], peer_bits: float) -> None:
    """Print what `margins` returned."""
    print_table(
        f"Against the best peer of at most {peer_bits:g} true bits",
        ("measure", "vecinfer", "best peer", "its name", "margin (+ = vecinfer better)"),
        [
            (
                row["measure"].replace("_", " "),
                f"{row['own']:.4f}",
                f"{row['peer']:.4f}",
                row["best_peer"],
                f"{row['margin']:+.4f}" + (f" ({row['low']:+.3f} to {row['high']:+.3f})" if "low" in row else ""),
            )
            for row in rows
        ],
    )
