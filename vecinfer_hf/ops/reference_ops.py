# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The reference's decode step under torch.compile: two custom operators that hide its host reads.

Owns their schemas and fake implementations; reference.py does the work. Compiled kernels bring operators of their own.
"""

from __future__ import annotations

import torch

from . import reference
from .types import Buffers, CacheBuffers, LayerCodebook, PagedBuffers


def append(key_states: torch.Tensor, value_states: torch.Tensor, buffers: Buffers, codebook: LayerCodebook) -> None:
    """See `reference.append`."""
    if torch.compiler.is_compiling():
        append_op(key_states, value_states, *buffers[:7], buffers.block_table, *codebook)
    else:
        reference.append(key_states, value_states, buffers, codebook)


def decode_attention(
    query: torch.Tensor,
    buffers: Buffers,
    codebook: LayerCodebook,
    softmax_scale: float,
    softcap: float = 0.0,
    sink_logits: torch.Tensor | None = None,
    num_splits: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `reference.decode_attention`."""
    if torch.compiler.is_compiling():
        return decode_attention_op(
            query, *buffers[:7], buffers.block_table, *codebook, softmax_scale, softcap, sink_logits
        )
    return reference.decode_attention(query, buffers, codebook, softmax_scale, softcap, sink_logits, num_splits)


@torch.library.custom_op(
    "vecinfer::append_reference",
    mutates_args=(
        "codes",
        "sink_keys",
        "sink_values",
        "ring_keys",
        "ring_values",
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
    ring_keys: torch.Tensor,
    ring_values: torch.Tensor,
    lengths: torch.Tensor,
    quantized_lengths: torch.Tensor,
    block_table: torch.Tensor | None,
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
) -> None:
    """Call `reference.append`; a custom operator's schema is flat."""
    contiguous = CacheBuffers(codes, sink_keys, sink_values, ring_keys, ring_values, lengths, quantized_lengths)
    buffers = contiguous if block_table is None else PagedBuffers(*contiguous, block_table)
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
    reference.append(key_states, value_states, buffers, codebook)


@append_op.register_fake
def _(*args) -> None:
    return None


@torch.library.custom_op("vecinfer::decode_attention_reference", mutates_args=())
def decode_attention_op(
    query: torch.Tensor,
    codes: torch.Tensor,
    sink_keys: torch.Tensor,
    sink_values: torch.Tensor,
    ring_keys: torch.Tensor,
    ring_values: torch.Tensor,
    lengths: torch.Tensor,
    quantized_lengths: torch.Tensor,
    block_table: torch.Tensor | None,
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
    softmax_scale: float,
    softcap: float,
    sink_logits: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Call `reference.decode_attention`; a custom operator's schema is flat."""
    contiguous = CacheBuffers(codes, sink_keys, sink_values, ring_keys, ring_values, lengths, quantized_lengths)
    buffers = contiguous if block_table is None else PagedBuffers(*contiguous, block_table)
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
    return reference.decode_attention(query, buffers, codebook, softmax_scale, softcap, sink_logits)


@decode_attention_op.register_fake
def _(
    query: torch.Tensor, codes: torch.Tensor, sink_keys: torch.Tensor, sink_values: torch.Tensor, *args
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = query.shape[:3]
    return query.new_empty(*shape, sink_values.shape[3]), query.new_empty(shape, dtype=torch.float32)
