# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Attention of a prompt's tokens under the page rule: exact within a token's own page, over codes before it.

A token's result depends on the tokens before it alone, however a prompt is cut into calls and whoever computed its
first pages. New pages are read by later new pages in the same call. A call of `n` pages needs `log2(n)` products, each
of many blocks at once:

    page of the query   0  1  2  3  4  5  6  7
    own page, exact     0  1  2  3  4  5  6  7
    level 0                0     2     4     6
    level 1                   01 01       45 45
    level 2                         0123 0123 0123 0123
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ..ops.blockwise import Block, blockwise_attention
from .chunked_prefill import Parts, flash, serves_chunks


class Frame(NamedTuple):
    """The pages that the new tokens of one row touch, from the beginning of the first of them.

    Args:
        keys: `[1, Hkv, offset + T, Dk]`, exact: the page's tokens of earlier calls, then the new ones.
        values: `[1, Hkv, offset + T, Dv]`.
        offset: tokens of earlier calls in the first page, less than a page.
        read_keys: `[1, Hkv, (n - 1) * page_tokens, Dk]`, all `n` pages but the last as later pages read them.
        read_values: `[1, Hkv, (n - 1) * page_tokens, Dv]`.
        earlier: yields the keys and values of the pages before, as they are read, in parts; None if there are none.
    """

    keys: torch.Tensor
    values: torch.Tensor
    offset: int
    read_keys: torch.Tensor
    read_values: torch.Tensor
    earlier: Callable[[], Parts] | None


def page_prefill_attention(
    query: torch.Tensor,
    frame: Frame,
    page_tokens: int,
    softmax_scale: float,
    softcap: float | None = None,
    sink_logits: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the attention of the new tokens of one row, `[1, Hq, T, Dv]` in the query's dtype.

    Args:
        query: `[1, Hq, T, Dk]`.
        frame: what they see.
        page_tokens: tokens of a page.
        softmax_scale: factor on `q . k`.
        softcap: softcap of the scaled scores, or None.
        sink_logits: `[Hq]`, or None.
    """
    if softcap or not serves_chunks(query, frame.keys, frame.values):
        return _page_by_page(query, frame, page_tokens, softmax_scale, softcap or 0.0, sink_logits)
    tokens = query.shape[2]
    pages = -(-(frame.offset + tokens) // page_tokens)
    spare = pages * page_tokens - frame.offset - tokens
    group = query.shape[1] // frame.keys.shape[1]
    # Queries that pad the first and the last page are computed and dropped.
    rows = torch.nn.functional.pad(query, (0, 0, frame.offset, spare))
    own = (torch.nn.functional.pad(states, (0, 0, 0, spare)) for states in (frame.keys, frame.values))
    keys, values = (_blocks(states, pages).repeat_interleave(group, dim=1) for states in own)
    exact, exact_lse = flash(_blocks(rows, pages).contiguous(), keys, values, softmax_scale, causal=True)
    output = exact.float().transpose(0, 1).flatten(1, 2).unsqueeze(0)
    lse = exact_lse.transpose(0, 1).flatten(1, 2).unsqueeze(0)
    if frame.earlier is not None:
        for keys, values in frame.earlier():
            _merge(output, lse, rows, keys, values, softmax_scale)
    width = page_tokens
    while width < pages * page_tokens:
        pairs = pages * page_tokens // (2 * width)
        if pairs:
            end = pairs * 2 * width
            _merge(
                *(_second_halves(states[:, :, :end], pairs) for states in (output, lse, rows)),
                *(_first_halves(states, pairs, width) for states in (frame.read_keys, frame.read_values)),
                softmax_scale,
            )
        left = pairs * 2 * width
        if pages * page_tokens > left + width:
            later, before = slice(left + width, None), slice(left, left + width)
            _merge(
                output[:, :, later],
                lse[:, :, later],
                rows[:, :, later],
                frame.read_keys[:, :, before],
                frame.read_values[:, :, before],
                softmax_scale,
            )
        width *= 2
    if sink_logits is not None:
        # A logit without a value only takes weight from the others.
        output.mul_(torch.sigmoid(lse - sink_logits.float().view(1, -1, 1)).unsqueeze(-1))
    return output[:, :, frame.offset : frame.offset + tokens].to(query.dtype)


def _blocks(states: torch.Tensor, count: int) -> torch.Tensor:
    """Return `[1, H, count * n, D]` as `[count, H, n, D]`."""
    return states[0].unflatten(1, (count, -1)).transpose(0, 1)


def _second_halves(states: torch.Tensor, pairs: int) -> torch.Tensor:
    """Return a view of the second half of each pair of blocks: `[1, H, pairs * 2n, ...]` as `[pairs, H, n, ...]`."""
    blocks = states[0].unflatten(1, (pairs, -1)).transpose(0, 1)
    return blocks[:, :, blocks.shape[2] // 2 :]


def _first_halves(states: torch.Tensor, pairs: int, width: int) -> torch.Tensor:
    """Return the first half of each pair of blocks, `[pairs, H, width, D]`; the last second half may be missing."""
    if states.shape[2] < pairs * 2 * width:
        states = torch.nn.functional.pad(states, (0, 0, 0, pairs * 2 * width - states.shape[2]))
    return _blocks(states[:, :, : pairs * 2 * width], pairs)[:, :, :width]


def _merge(
    output: torch.Tensor,
    lse: torch.Tensor,
    rows: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    softmax_scale: float,
) -> None:
    """Add attention over keys that all queries see to a running result, in place.

    Args:
        output: float32 `[B, Hq, T, D]`.
        lse: float32 `[B, Hq, T]`.
        rows: `[B, Hq, T, D]`, the queries.
        keys: `[B, Hkv, N, D]`.
        values: `[B, Hkv, N, D]`.
        softmax_scale: factor on `q . k`.
    """
    # No key is in the future, so the query heads of one key/value head can stand behind each other as rows.
    folded = rows.reshape(*keys.shape[:2], -1, rows.shape[3])
    part, part_lse = flash(folded, keys.contiguous(), values.contiguous(), softmax_scale)
    part, part_lse = part.reshape(rows.shape), part_lse.reshape(rows.shape[:3])
    joint = torch.logaddexp(lse, part_lse)
    output.mul_(torch.exp(lse - joint).unsqueeze(-1))
    output.addcmul_(part.float(), torch.exp(part_lse - joint).unsqueeze(-1))
    lse.copy_(joint)


def _page_by_page(
    query: torch.Tensor,
    frame: Frame,
    page_tokens: int,
    softmax_scale: float,
    softcap: float,
    sink_logits: torch.Tensor | None,
) -> torch.Tensor:
    """See `page_prefill_attention`; one page of queries at a time, in float32."""
    tokens, device = query.shape[2], query.device
    # Everything before a page is seen by all of its queries, so its order does not matter.
    parts = list(frame.earlier()) if frame.earlier is not None else []
    outputs, start = [], 0
    while start < tokens:
        page = (frame.offset + start) // page_tokens
        begin = page * page_tokens
        end = min(begin + page_tokens - frame.offset, tokens)
        index = torch.arange(begin, frame.offset + end, device=device).unsqueeze(0)
        blocks = [Block(*part, _anywhere(part[0])) for part in parts]
        if begin:
            read = frame.read_keys[:, :, :begin], frame.read_values[:, :, :begin]
            blocks.append(Block(*read, _anywhere(read[0])))
        own = slice(begin, frame.offset + end)
        blocks.append(Block(frame.keys[:, :, own], frame.values[:, :, own], index))
        query_index = torch.arange(frame.offset + start, frame.offset + end, device=device).unsqueeze(0)
        output, _ = blockwise_attention(
            query[:, :, start:end], blocks, query_index, softmax_scale, softcap, sink_logits
        )
        outputs.append(output)
        start = end
    return torch.cat(outputs, dim=2).to(query.dtype)


def _anywhere(keys: torch.Tensor) -> torch.Tensor:
    """Return token indices int64 `[1, N]` that every query sees, for keys `[1, Hkv, N, D]`."""
    return torch.zeros(1, keys.shape[2], dtype=torch.int64, device=keys.device)
