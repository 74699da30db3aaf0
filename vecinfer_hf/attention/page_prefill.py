# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Attention of several new tokens of a text under the page rule (page_rule.py), new pages read by later new ones.

A token's result depends on its place and the tokens before it alone, however a prompt is cut into calls. All pages of
a call are computed together: products over the exact pages, one for each distance; over the codes of a page's own
section in `log2` steps, of which step `w` gives pages with an odd multiple of `w` before them the `w` pages there;
and over whole sections before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ..ops.blockwise import Block, blockwise_attention
from ..ops.to_device import to_device
from .chunked_prefill import Parts, flash, serves_chunks
from .page_rule import PageRule


class Frame(NamedTuple):
    """What the new tokens of one row see, from the section of the first of them on. Pages count from there.

    Args:
        keys: `[1, Hkv, E, Dk]`, exact keys from the beginning of page `first_exact` to the last new token.
        values: `[1, Hkv, E, Dv]`.
        first_exact: the first page that the first new token reads exactly.
        offset: tokens of the frame before the first new one.
        read_keys: `[1, Hkv, R, Dk]`, the frame's first pages as they are read, as many as its last token reads.
        read_values: `[1, Hkv, R, Dv]`.
        earlier: yields the keys and values before the frame, as they are read, in parts; None if there are none.
    """

    keys: torch.Tensor
    values: torch.Tensor
    first_exact: int
    offset: int
    read_keys: torch.Tensor
    read_values: torch.Tensor
    earlier: Callable[[], Parts] | None


def page_prefill_attention(
    query: torch.Tensor,
    frame: Frame,
    rule: PageRule,
    softmax_scale: float,
    softcap: float | None = None,
    sink_logits: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the attention of the new tokens of one row, `[1, Hq, T, Dv]` in the query's dtype.

    Args:
        query: `[1, Hq, T, Dk]`.
        frame: what they see.
        rule: the page rule.
        softmax_scale: factor on `q . k`.
        softcap: softcap of the scaled scores, or None.
        sink_logits: `[Hq]`, or None.
    """
    if softcap or not serves_chunks(query, frame.keys, frame.values):
        return _page_by_page(query, frame, rule, softmax_scale, softcap or 0.0, sink_logits)
    tokens, size = query.shape[2], rule.page_tokens
    begin = frame.offset // size
    front = frame.offset - begin * size
    count = -(-(front + tokens) // size)
    spare = count * size - front - tokens
    # Queries that pad the first and the last page are computed and dropped.
    rows = _pages(torch.nn.functional.pad(query, (0, 0, front, spare)), size)
    keys, values = (
        _pages(torch.nn.functional.pad(states, (0, 0, 0, spare)), size) for states in (frame.keys, frame.values)
    )
    running = _Running(
        rows,
        *_own_page(rows, keys[begin - frame.first_exact :], values[begin - frame.first_exact :], softmax_scale),
        softmax_scale,
    )
    pages = range(begin, begin + count)
    for distance in range(1, rule.exact_pages + 1):
        near = [page for page in pages if page - distance >= rule.section(page)]
        running.merge_pages(begin, near, keys, values, [page - distance - frame.first_exact for page in near], 1)
    read = [_pages(states, size) for states in (frame.read_keys, frame.read_values)]
    width = 1
    while width < rule.share_pages:
        # Pages of their section that each page reads as codes.
        behind = {page: rule.first_exact(page) - rule.section(page) for page in pages}
        far = [page for page in pages if behind[page] // width % 2]
        first = [rule.section(page) + (behind[page] // width - 1) * width for page in far]
        running.merge_pages(begin, far, *read, first, width)
        width *= 2
    for section in range(rule.section(begin) + rule.share_pages, begin + count, rule.share_pages):
        part = slice(section - begin, min(section + rule.share_pages, begin + count) - begin)
        before = section * size
        running.merge_all(part, frame.read_keys[:, :, :before], frame.read_values[:, :, :before])
    if frame.earlier is not None:
        for earlier_keys, earlier_values in frame.earlier():
            running.merge_all(slice(0, count), earlier_keys, earlier_values)
    output = running.output
    if sink_logits is not None:
        # A logit without a value only takes weight from the others.
        output.mul_(torch.sigmoid(running.lse - sink_logits.float().view(1, -1, 1)).unsqueeze(-1))
    return _joined(output)[:, :, front : front + tokens].to(query.dtype)


class _Running:
    """Attention under way of pages of queries, by page.

    Args:
        rows: `[pages, Hq, N, D]`, the queries.
        output: float32 `[pages, Hq, N, D]`.
        lse: float32 `[pages, Hq, N]`.
        softmax_scale: factor on `q . k`.
    """

    def __init__(self, rows: torch.Tensor, output: torch.Tensor, lse: torch.Tensor, softmax_scale: float):
        self.rows, self.output, self.lse, self.softmax_scale = rows, output, lse, softmax_scale

    def merge_pages(
        self, begin: int, pages: list[int], keys: torch.Tensor, values: torch.Tensor, first: list[int], width: int
    ) -> None:
        """Give each of some pages of queries `width` pages of keys.

        Args:
            begin: the page of `rows[0]`.
            pages: which pages of queries.
            keys: `[n, Hkv, N, D]`.
            values: `[n, Hkv, N, D]`.
            first: index in `keys` of the first page of keys of each.
            width: pages of keys of each.
        """
        if not pages:
            return
        mine = to_device([page - begin for page in pages], keys.device)
        theirs = to_device([start + step for start in first for step in range(width)], keys.device)
        # [pages, Hkv, width * N, D]
        own = (
            states.index_select(0, theirs).unflatten(0, (-1, width)).transpose(1, 2).flatten(2, 3)
            for states in (keys, values)
        )
        output, lse = self.output.index_select(0, mine), self.lse.index_select(0, mine)
        self._merge(output, lse, self.rows.index_select(0, mine), *own)
        self.output.index_copy_(0, mine, output)
        self.lse.index_copy_(0, mine, lse)

    def merge_all(self, part: slice, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Give the pages `part` keys `[1, Hkv, n, D]` and values that all of their queries see."""
        # Copies: a single page, or head, would be a view.
        output, lse, rows = (_joined(states[part]).clone() for states in (self.output, self.lse, self.rows))
        self._merge(output, lse, rows, keys, values)
        pages = self.output[part].shape[0]
        self.output[part] = output[0].unflatten(1, (pages, -1)).transpose(0, 1)
        self.lse[part] = lse[0].unflatten(1, (pages, -1)).transpose(0, 1)

    def _merge(self, output, lse, rows, keys, values) -> None:
        """Merge, in place, attention over keys `[B, Hkv, n, D]` into output `[B, Hq, T, D]` and lse `[B, Hq, T]`."""
        # No key is in the future, so the query heads of one key/value head can stand behind each other as rows.
        folded = rows.reshape(*keys.shape[:2], -1, rows.shape[3])
        part, part_lse = flash(folded, keys.contiguous(), values.contiguous(), self.softmax_scale)
        part, part_lse = part.reshape(rows.shape), part_lse.reshape(rows.shape[:3])
        joint = torch.logaddexp(lse, part_lse)
        output.mul_(torch.exp(lse - joint).unsqueeze(-1))
        output.addcmul_(part.float(), torch.exp(part_lse - joint).unsqueeze(-1))
        lse.copy_(joint)


def _own_page(rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, softmax_scale: float):
    """Return causal attention within each page, `[pages, Hq, N, D]` and log-sum-exp `[pages, Hq, N]`, float32."""
    group = rows.shape[1] // keys.shape[1]
    keys, values = (states.repeat_interleave(group, dim=1) for states in (keys, values))
    output, lse = flash(rows.contiguous(), keys, values, softmax_scale, causal=True)
    return output.float().contiguous(), lse.contiguous()


def _pages(states: torch.Tensor, size: int) -> torch.Tensor:
    """Return `[1, H, n * size, D]` as `[n, H, size, D]`."""
    return states[0].unflatten(1, (-1, size)).transpose(0, 1)


def _joined(pages: torch.Tensor) -> torch.Tensor:
    """Return `[n, H, size, ...]` as `[1, H, n * size, ...]`."""
    return pages.transpose(0, 1).flatten(1, 2).unsqueeze(0)


def _page_by_page(
    query: torch.Tensor,
    frame: Frame,
    rule: PageRule,
    softmax_scale: float,
    softcap: float,
    sink_logits: torch.Tensor | None,
) -> torch.Tensor:
    """See `page_prefill_attention`; one page of queries at a time, in float32."""
    tokens, size, device = query.shape[2], rule.page_tokens, query.device
    # Everything before the exact pages is seen by all queries of a page, so its order does not matter.
    parts = list(frame.earlier()) if frame.earlier is not None else []
    outputs, start = [], 0
    while start < tokens:
        page = (frame.offset + start) // size
        end = min((page + 1) * size - frame.offset, tokens)
        coded = rule.first_exact(page) * size
        blocks = [Block(*part, _anywhere(part[0])) for part in parts]
        if coded:
            read = frame.read_keys[:, :, :coded], frame.read_values[:, :, :coded]
            blocks.append(Block(*read, _anywhere(read[0])))
        index = torch.arange(coded, frame.offset + end, device=device).unsqueeze(0)
        own = slice(coded - frame.first_exact * size, frame.offset + end - frame.first_exact * size)
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
