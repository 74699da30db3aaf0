# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of the comparison: a codebook and every peer as something that quantizes the layers of a model.

Owns the choice of peers. compare.py and retrieval.py measure them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from vecinfer_hf.calibration.fake_quantization import LayerFakeQuantizer
from vecinfer_hf.codebook.codebook import Codebook
from vecinfer_hf.model_info import full_attention_layers, head_shapes

from .peer_packages import package_peers
from .peers import PeerSimulator, fp8, kivi, rotated_lloyd_max, uniform_per_token


OWN = "vecinfer"
"""Name of the codebook's row."""
STOCK = "stock cache"
"""Name of the row that quantizes nothing."""


@dataclass(frozen=True)
class Method:
    """One row.

    Args:
        name: as the table shows it.
        bits: true bits per element of the quantized region: codes, and every scale, offset and norm.
        layers: layer index -> what quantizes it, on the model's device; empty for the stock cache.
    """

    name: str
    bits: float
    layers: Mapping[int, torch.nn.Module]


def peer_simulators(dim: int) -> dict[str, PeerSimulator]:
    """Return the peers whose arithmetic is written in peers.py, by name, for heads of `dim` channels."""
    return {
        "per token, asymmetric, 2 bits, groups of 64": uniform_per_token(2, min(64, dim)),
        "KIVI, 2 bits, groups of 32": kivi(2, min(32, dim)),
        "rotated Lloyd-Max, 2 bits": rotated_lloyd_max(2, dim),
        "rotated Lloyd-Max, 3 bits": rotated_lloyd_max(3, dim),
        "fp8 (e4m3), one scale per tensor": fp8(),
    }


def own_method(model: PreTrainedModel, codebook: Codebook) -> Method:
    """Return the row of a codebook."""
    layers = {
        index: LayerFakeQuantizer(codebook.layers[index]).to(model.device).requires_grad_(False)
        for index in full_attention_layers(model.config)
    }
    return Method(OWN, codebook.bits_per_element, layers)


def stock_method(model: PreTrainedModel) -> Method:
    """Return the row of the stock cache, in bits of the model's dtype."""
    return Method(STOCK, 8.0 * model.dtype.itemsize, {})


def peer_methods(
    model: PreTrainedModel, sink_length: int, plain: Mapping[int, PeerSimulator] | None = None
) -> tuple[list[Method], list[str]]:
    """Return the rows of all peers, and a line for each that is left out because its package is missing or fails.

    Args:
        model: the model.
        sink_length: first tokens, which are left out of the peers' groups and stay exact for them.
        plain: what `plain_layers` returned, or None to leave that row out.
    """
    indices = full_attention_layers(model.config)
    dim = next(iter(head_shapes(model.config).values())).key_head_dim
    packages, missing = package_peers(dim, model.device)
    methods = []
    if plain is None:
        missing.append("plain product quantization: needs text to fit (--plain TEXT, the codebook's own)")
    else:
        bits = next(iter(plain.values())).bits
        layers = {index: layer.to(model.device) for index, layer in plain.items()}
        methods.append(Method(f"plain product quantization, {bits:g} bits", bits, layers))
    for name, peer in {**peer_simulators(dim), **packages}.items():
        methods.append(Method(name, peer.bits, dict.fromkeys(indices, peer.after_sinks(sink_length))))
    return methods, missing
