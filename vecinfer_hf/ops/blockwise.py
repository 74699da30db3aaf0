# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Attention in blocks with a running softmax: exact, and never more than one block of keys in memory.

Owns the running (maximum, sum, output) state and the blocks of a cache; reference.py and attention.py call it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch

from .types import Buffers


CODE_BLOCK = 4096
"""Quantized tokens that are dequantized at once."""
SCORE_ELEMENTS = 1 << 25
"""Scores held at once (128 MiB of float32)."""


class Block(NamedTuple):
    """Some keys and values and who may see them.

    Args:
        keys: `[B, Hkv, N, Dk]`.
        values: `[B, Hkv, N, Dv]`.
        token_index: int64 `[B, N]`, the row's own index of each token; negative for an empty place.
    """

    keys: torch.Tensor
    values: torch.Tensor
    token_index: torch.Tensor


def cache_blocks(
    buffers: Buffers,
    read_codes: Callable[[int, int], tuple[torch.Tensor, torch.Tensor]],
    code_length: int,
) -> Iterator[Block]:
    """Yield everything a layer has stored: sinks, codes in blocks of 4096, ring.

    Args:
        buffers: the layer's storage.
        read_codes: `(start, length) -> keys, values`, the dequantized code slots.
        code_length: the largest number of quantized tokens of any row (host side).
    """
    lengths = buffers.lengths.long().unsqueeze(1)
    quantized = buffers.quantized_lengths.long().unsqueeze(1)
    device = buffers.lengths.device
    num_sinks = buffers.sink_keys.shape[2]
    if num_sinks:
        index = torch.arange(num_sinks, device=device).unsqueeze(0)
        yield Block(buffers.sink_keys, buffers.sink_values, torch.where(index < lengths, index, -1))
    for start in range(0, code_length, CODE_BLOCK):
        length = min(CODE_BLOCK, code_length - start)
        index = torch.arange(start, start + length, device=device).unsqueeze(0)
        keys, values = read_codes(start, length)
        yield Block(keys, values, torch.where(index < quantized, index + num_sinks, -1))
    # Slot j of the ring holds the youngest n with n % C == j, if it is there at all. An empty ring is yielded too: it
    # tells the head sizes.
    slots = buffers.ring_keys.shape[2]
    last = lengths - num_sinks - 1
    slot = torch.arange(slots, device=device).unsqueeze(0)
    index = last - (last - slot) % max(slots, 1)
    valid = (index >= quantized) & (index >= 0) & (last >= 0)
    yield Block(buffers.ring_keys, buffers.ring_values, torch.where(valid, index + num_sinks, -1))


def blockwise_attention(
    query: torch.Tensor,
    blocks: Iterable[Block],
    query_index: torch.Tensor,
    softmax_scale: float,
    softcap: float = 0.0,
    sink_logits: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return causal attention over all blocks, computed in float32 whatever the inputs' dtype.

    Args:
        query: `[B, Hq, Tq, Dk]`; query head `i` reads key/value head `i // (Hq / Hkv)`.
        blocks: the keys and values; a place with negative token index is never seen.
        query_index: int64 `[B, Tq]`, the row's own token index of each query: it sees tokens up to that index.
        softmax_scale: factor on `q . k`.
        softcap: scores become `softcap * tanh(score / softcap)`; 0 for none.
        sink_logits: `[Hq]`, one extra logit per head without a value, or None.

    Returns:
        float32 `[B, Hq, Tq, Dv]` and the natural log-sum-exp, float32 `[B, Hq, Tq]` (sink logits included). A query
        that sees nothing gets 0 and -inf. Without any block `Dv` is taken to be `Dk`.
    """
    batch, query_heads, queries, head_dim = query.shape
    maximum = total = output = None
    for keys, values, token_index in blocks:
        kv_heads = keys.shape[1]
        group = query_heads // kv_heads
        rows = query.float().reshape(batch, kv_heads, group, queries, head_dim) * softmax_scale
        if maximum is None:
            maximum = rows.new_full((batch, kv_heads, group, queries), float("-inf"))
            total = torch.zeros_like(maximum)
            output = rows.new_zeros(*maximum.shape, values.shape[3])
        step = max(1, SCORE_ELEMENTS // max(1, batch * query_heads * queries))
        for start in range(0, keys.shape[2], step):
            part_keys = keys[:, :, start : start + step].float().unsqueeze(2)
            part_values = values[:, :, start : start + step].float().unsqueeze(2)
            index = token_index[:, start : start + step]
            scores = rows @ part_keys.transpose(-1, -2)
            if softcap:
                scores = softcap * torch.tanh(scores / softcap)
            visible = (index.unsqueeze(1) >= 0) & (index.unsqueeze(1) <= query_index.unsqueeze(2))
            scores = scores.masked_fill(~visible.view(batch, 1, 1, queries, -1), float("-inf"))
            new_maximum = torch.maximum(maximum, scores.amax(-1))
            # Rows that have seen nothing yet have maximum -inf; subtracting it would give NaN.
            reference = new_maximum.masked_fill(new_maximum == float("-inf"), 0.0)
            decay = torch.exp(maximum - reference)
            weights = torch.exp(scores - reference.unsqueeze(-1))
            total = total * decay + weights.sum(-1)
            output = output * decay.unsqueeze(-1) + weights @ part_values
            maximum = new_maximum
    if maximum is None:
        return torch.zeros_like(query, dtype=torch.float32), query.new_full(query.shape[:3], float("-inf")).float()
    if sink_logits is not None:
        logits = sink_logits.float().view(1, maximum.shape[1], -1, 1)
        new_maximum = torch.maximum(maximum, logits)
        decay = torch.exp(maximum - new_maximum)
        total = total * decay + torch.exp(logits - new_maximum)
        output, maximum = output * decay.unsqueeze(-1), new_maximum
    result = torch.where(total.unsqueeze(-1) > 0, output / total.unsqueeze(-1), 0.0)
    lse = maximum + total.log()
    return result.reshape(batch, query_heads, queries, -1), lse.reshape(batch, query_heads, queries)
