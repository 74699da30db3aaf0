# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""One table for a codebook and its peers: the same text, the same exact window and sinks, true bits per element.

Owns the choice of peers and the rows; the measure is `simulated_loss`, which a test holds equal to the real cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from ..calibration.refine import simulated_loss, stock_states
from ..calibration.simulate import LayerSimulator
from ..codebook import Codebook
from ..model_identity import full_attention_layers, head_dim, text_config
from .peers import PeerSimulator, kivi, rotated_lloyd_max, uniform_per_token


def peer_simulators(dim: int) -> dict[str, PeerSimulator]:
    """Return the peers of the table by name, for heads of `dim` channels, at 2 to 3.3 true bits."""
    return {
        "per token, asymmetric, 2 bits, groups of 64": uniform_per_token(2, 64),
        "KIVI, 2 bits, groups of 32": kivi(2, 32),
        "rotated Lloyd-Max, 2 bits": rotated_lloyd_max(2, dim),
        "rotated Lloyd-Max, 3 bits": rotated_lloyd_max(3, dim),
    }


def compare(
    model: PreTrainedModel,
    windows: torch.Tensor,
    codebook: Codebook,
    *,
    batch_size: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure a codebook and its peers on the same text.

    Args:
        model: the model, unchanged afterwards.
        windows: int64 `[windows, T]`.
        codebook: the codebook; its window and sinks hold for all.
        batch_size: windows per pass.
        progress: called with the number of tokens after each pass.

    Returns:
        One dict per row: name, bits (true, per element), perplexity_ratio, kl_divergence, top1_agreement; the
        codebook first.
    """
    indices = full_attention_layers(model.config)
    rows = [("vecinfer", codebook.bits_per_element, {i: LayerSimulator(codebook.layers[i]) for i in indices})]
    for name, peer in peer_simulators(head_dim(text_config(model.config))).items():
        rows.append((name, peer.bits, dict.fromkeys(indices, peer)))
    stock = stock_states(model, windows, batch_size)
    table = []
    for name, bits, layers in rows:
        loss = simulated_loss(
            model,
            {index: layer.to(model.device) for index, layer in layers.items()},
            windows,
            sink_length=codebook.config.sink_length,
            residual_length=codebook.config.residual_length,
            batch_size=batch_size,
            stock=stock,
            progress=progress,
        )
        table.append(
            {
                "name": name,
                "bits": bits,
                "perplexity_ratio": loss.perplexity_ratio,
                "kl_divergence": loss.kl,
                "top1_agreement": loss.top1_agreement,
            }
        )
    return table
