# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Many new tokens, or padded ones, against a cache that holds tokens already; they attend before they are stored.

Owns the choice between flash attention in parts (chunked_prefill.py) and float32 blocks (ops/blockwise.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ..ops.backend import Backend
from ..ops.blockwise import SCORE_ELEMENTS, Block, blockwise_attention, cache_blocks
from ..ops.types import CacheBuffers, LayerCodebook
from .chunked_prefill import Parts, chunked_prefill_attention, serves_chunks


CODE_BLOCK = 32768
"""Coded tokens that are dequantized at once: 134 MB of bfloat16 for 8 heads of 128, little beside one layer's MLP."""


def attend_before_storing(
    query: torch.Tensor,
    key_states: torch.Tensor,
    value_states: torch.Tensor,
    tokens: list[int],
    quantized: list[int],
    buffers: CacheBuffers,
    codebook: LayerCodebook,
    ops: Backend,
    valid: torch.Tensor | None,
    softmax_scale: float,
    softcap: float | None,
    sink_logits: torch.Tensor | None,
) -> torch.Tensor:
    """Return the attention of new tokens to everything stored and, causally, to each other, `[B, Hq, Tq, Dv]`.

    Args:
        query: `[B, Hq, Tq, Dk]`, of the last `Tq` new tokens.
        key_states: `[B, Hkv, T, Dk]`, the new keys.
        value_states: `[B, Hkv, T, Dv]`, the new values.
        tokens: stored tokens of each row.
        quantized: those of them that are codes.
        buffers: the layer's storage, without the new tokens.
        codebook: the layer's codebook.
        ops: the operators in use.
        valid: bool `[B, T]` on the device, which new columns are tokens; None for all.
        softmax_scale: factor on `q . k`.
        softcap: softcap of the scaled scores, or None.
        sink_logits: `[Hq]`, or None.
    """
    dtype = query.dtype

    def dequantize(start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return ops.dequantize(buffers, codebook, start, count, dtype)

    queries, new = query.shape[2], key_states.shape[2]
    equal_rows = len(set(tokens)) == 1 and len(set(quantized)) == 1
    if (
        queries == new
        and valid is None
        and equal_rows
        and not softcap
        and serves_chunks(query, key_states, value_states)
    ):
        stored = _parts(tokens[0], quantized[0], buffers, dequantize)
        return chunked_prefill_attention(query, key_states, value_states, stored, softmax_scale, sink_logits)
    before = buffers.lengths.long().unsqueeze(1)
    if valid is None:
        new_index = query_index = before + torch.arange(new, device=query.device)
    else:
        # A padding column stands at its predecessor's place as a query and nowhere as a key.
        query_index = before + valid.long().cumsum(1) - 1
        new_index = torch.where(valid, query_index, -1)
    query_index = query_index[:, new - queries :]

    def blocks() -> Iterator[Block]:
        yield from cache_blocks(buffers, dequantize, max(quantized))
        yield Block(key_states, value_states, new_index)

    outputs = []
    step = max(64, SCORE_ELEMENTS // (query.shape[0] * query.shape[1] * max(queries, 4096)))
    for start in range(0, queries, step):
        part = slice(start, start + step)
        output, _ = blockwise_attention(
            query[:, :, part], blocks(), query_index[:, part], softmax_scale, softcap or 0.0, sink_logits
        )
        outputs.append(output)
    return torch.cat(outputs, dim=2).to(dtype)


def _parts(
    tokens: int,
    quantized: int,
    buffers: CacheBuffers,
    dequantize: Callable[[int, int], tuple[torch.Tensor, torch.Tensor]],
) -> Callable[[], Parts]:
    """Return the function that yields the stored keys and values of rows that all hold `tokens` tokens."""

    def parts() -> Parts:
        num_sinks, slots = buffers.sink_keys.shape[2], buffers.ring_keys.shape[2]
        if tokens > quantized:
            sinks = min(tokens, num_sinks)
            places = torch.arange(quantized, max(tokens - num_sinks, quantized), device=buffers.lengths.device)
            places = places % max(slots, 1)
            yield (
                torch.cat([buffers.sink_keys[:, :, :sinks], buffers.ring_keys.index_select(2, places)], dim=2),
                torch.cat([buffers.sink_values[:, :, :sinks], buffers.ring_values.index_select(2, places)], dim=2),
            )
        for start in range(0, quantized, CODE_BLOCK):
            yield dequantize(start, min(CODE_BLOCK, quantized - start))

    return parts
