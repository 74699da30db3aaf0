# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""One table for a codebook and its peers: the same text, the same exact window and sinks, true bits per element.

Owns the rows and the margins; the measure is `quantization_loss`, which a test holds equal to the real cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from vecinfer_hf.calibration.loss import full_precision_states, quantization_loss
from vecinfer_hf.config import SMALL_VALUES

from .intervals import paired_difference
from .methods import OWN, STOCK, Method


PEER_BITS = 3.0
"""Peers of at most this many true bits are what a codebook is held against."""
_LESS_IS_BETTER = {"perplexity_ratio": True, "kl_divergence": True, "top1_agreement": False}


def compare(
    model: PreTrainedModel,
    windows: torch.Tensor,
    methods: Sequence[Method],
    *,
    sink_length: int = 4,
    residual_length: int = 128,
    sink_choice: str = SMALL_VALUES,
    batch_size: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure several ways to quantize on the same text.

    Args:
        model: the model, unchanged afterwards.
        windows: int64 `[windows, T]`.
        methods: the rows.
        sink_length: exact early tokens, for all.
        residual_length: exact recent tokens, for all.
        sink_choice: see `VecInferConfig.sink_choice`, for all.
        batch_size: windows per pass.
        progress: called with the number of tokens after each pass.

    Returns:
        One dict per row, in the order of `methods`: name, bits (true, per element), perplexity_ratio, kl_divergence
        (nats per token), top1_agreement (0 to 1).
    """
    stock = full_precision_states(model, windows, batch_size)
    table = []
    for method in methods:
        loss = quantization_loss(
            model,
            dict(method.layers),
            windows,
            sink_length=sink_length,
            residual_length=residual_length,
            sink_choice=sink_choice,
            batch_size=batch_size,
            full_precision=stock,
            progress=progress,
        )
        table.append(
            {
                "name": method.name,
                "bits": method.bits,
                "perplexity_ratio": loss.perplexity_ratio,
                "kl_divergence": loss.kl,
                "top1_agreement": loss.top1_agreement,
            }
        )
    return table


def margins(
    rows: Sequence[Mapping[str, Any]], retrieval: Sequence[Mapping[str, Any]] = (), peer_bits: float = PEER_BITS
) -> list[dict[str, Any]]:
    """Return by how much the codebook beats the best peer of at most `peer_bits` true bits, in each measure.

    Args:
        rows: what `compare` returned.
        retrieval: what `retrieval_report` returned, for any number of lengths.
        peer_bits: peers with more are left out.

    Returns:
        One dict per measure: measure, own, best_peer, peer (its value), margin. The margin is positive where the
        codebook is better: perplexity ratio and KL as a difference, agreement and retrieval as a difference of shares,
        which for retrieval comes with its 95 % interval on the same samples, low and high.
    """

    def margin(measure: str, key: str, candidates: Sequence[Mapping[str, Any]], less: bool) -> dict[str, Any] | None:
        own = next((row for row in candidates if row["name"] == OWN), None)
        peers = [row for row in candidates if row["name"] not in (OWN, STOCK) and row["bits"] <= peer_bits]
        if own is None or not peers:
            return None
        sign = -1 if less else 1
        best = max(peers, key=lambda row: sign * row[key])
        return {
            "measure": measure,
            "own": own[key],
            "best_peer": best["name"],
            "peer": best[key],
            "margin": sign * (own[key] - best[key]),
            **(_interval(own, best) if key == "share" else {}),
        }

    found = [margin(key, key, rows, less) for key, less in _LESS_IS_BETTER.items()]
    found += [
        margin(f"needles found, {part['length']} tokens, {part['keys']} keys", "share", part["rows"], False)
        for part in retrieval
    ]
    return [entry for entry in found if entry is not None]


def _interval(own: Mapping[str, Any], peer: Mapping[str, Any]) -> dict[str, float]:
    """The interval of the difference of two rows of `retrieval_report`."""
    own_missed, peer_missed = set(own["missed"]), set(peer["missed"])
    samples = own["hits"] + len(own_missed)
    _, low, high = paired_difference(len(peer_missed - own_missed), len(own_missed - peer_missed), samples)
    return {"low": low, "high": high}
