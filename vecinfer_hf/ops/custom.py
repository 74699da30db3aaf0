# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The two operators of a decode step as torch custom operators, opaque to torch.compile and safe in CUDA graphs.

Owns the schemas and the fake implementations; the work is done by the backend module, which is named in the call.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from .types import CacheBuffers, LayerCodebook


def _module(name: str) -> ModuleType:
    return importlib.import_module(name)


@torch.library.custom_op(
    "vecinfer::append",
    mutates_args=(
        "codes",
        "sink_keys",
        "sink_values",
        "window_keys",
        "window_values",
        "lengths",
        "quantized_lengths",
    ),
)
def append_op(
    key_states: torch.Tensor,
    value_states: torch.Tensor,
    codes: torch.Tensor,
    sink_keys: torch.Tensor,
    sink_values: torch.Tensor,
    window_keys: torch.Tensor,
    window_values: torch.Tensor,
    lengths: torch.Tensor,
    quantized_lengths: torch.Tensor,
    key_mean: torch.Tensor | None,
    key_transform: torch.Tensor,
    query_transform: torch.Tensor,
    key_centroids: torch.Tensor,
    key_centroid_scale: torch.Tensor,
    value_mean: torch.Tensor | None,
    value_transform: torch.Tensor | None,
    output_transform: torch.Tensor | None,
    value_centroids: torch.Tensor,
    value_centroid_scale: torch.Tensor,
    residual_length: int,
    backend: str,
) -> None:
    """See `reference.append`; `backend` is the name of the module that does the work."""
    buffers = CacheBuffers(codes, sink_keys, sink_values, window_keys, window_values, lengths, quantized_lengths)
    codebook = LayerCodebook(
        key_mean,
        key_transform,
        query_transform,
        key_centroids,
        key_centroid_scale,
        value_mean,
        value_transform,
        output_transform,
        value_centroids,
        value_centroid_scale,
    )
    _module(backend).append(key_states, value_states, buffers, codebook, residual_length)


@append_op.register_fake
def _(*args) -> None:
    return None


@torch.library.custom_op("vecinfer::decode_attention", mutates_args=())
def decode_attention_op(
    query: torch.Tensor,
    codes: torch.Tensor,
    sink_keys: torch.Tensor,
    sink_values: torch.Tensor,
    window_keys: torch.Tensor,
    window_values: torch.Tensor,
    lengths: torch.Tensor,
    quantized_lengths: torch.Tensor,
    key_mean: torch.Tensor | None,
    key_transform: torch.Tensor,
    query_transform: torch.Tensor,
    key_centroids: torch.Tensor,
    key_centroid_scale: torch.Tensor,
    value_mean: torch.Tensor | None,
    value_transform: torch.Tensor | None,
    output_transform: torch.Tensor | None,
    value_centroids: torch.Tensor,
    value_centroid_scale: torch.Tensor,
    residual_length: int,
    softmax_scale: float,
    softcap: float,
    attention_sinks: torch.Tensor | None,
    backend: str,
) -> torch.Tensor:
    """See `reference.decode_attention`; returns only its output. `backend` names the module that does the work."""
    buffers = CacheBuffers(codes, sink_keys, sink_values, window_keys, window_values, lengths, quantized_lengths)
    codebook = LayerCodebook(
        key_mean,
        key_transform,
        query_transform,
        key_centroids,
        key_centroid_scale,
        value_mean,
        value_transform,
        output_transform,
        value_centroids,
        value_centroid_scale,
    )
    return _module(backend).decode_attention(
        query, buffers, codebook, residual_length, softmax_scale, softcap, attention_sinks
    )[0]


@decode_attention_op.register_fake
def _(query: torch.Tensor, *args) -> torch.Tensor:
    return torch.empty(query.shape, dtype=query.dtype, device=query.device)
