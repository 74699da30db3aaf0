# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""PagedLayer: one attention layer for many texts of different lengths at once, over pages of codes.

Owns the choice of path for each text of a batch: one new token takes the fused decode operator, several the page rule
of a prompt. paged.py owns what is stored.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..attention.chunked_prefill import Parts
from ..attention.page_prefill import Frame, page_prefill_attention
from .handle import CacheHandle
from .paged import PagedStorage
from .paged_rows import Batch, BatchRow


EARLIER_TOKENS = 32768
"""Coded tokens that are dequantized at once."""


class PagedLayer:
    """The attention of one layer over its pages.

    Args:
        layer_idx: index of the layer in the model.
        storage: its pages.
    """

    def __init__(self, layer_idx: int, storage: PagedStorage):
        self.layer_idx, self.storage = layer_idx, storage
        self.batch: Batch | None = None

    @property
    def forward_pass(self) -> PagedLayer:
        """What a handle tells that its keys were refused: nothing is stored before `attend`."""
        return self

    def abandon(self) -> None:
        """End a refused call."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, batch: Batch):
        """Return two `CacheHandle` for packed keys `[1, Hkv, T, Dk]` and values `[1, Hkv, T, Dv]`."""
        self.batch = batch
        return CacheHandle(self, key_states), CacheHandle(self, value_states)

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        softmax_scale: float,
        softcap: float | None = None,
        sink_logits: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Store the new tokens of all rows and return their attention, `[1, T, Hq, Dv]`.

        Args:
            module: the attention module; not used.
            query: packed queries `[1, Hq, T, Dk]` after RoPE; places behind the last row are padding and give 0.
            key_states: `[1, Hkv, T, Dk]`.
            value_states: `[1, Hkv, T, Dv]`.
            attention_mask: not used: every row is causal.
            softmax_scale: factor on `q . k`.
            softcap: softcap of the scaled scores, or None.
            sink_logits: `[Hq]`, or None.
        """
        batch = self.batch
        for row in batch.rows:
            if row.load_sinks:
                self.storage.load_sinks(row.slot, row.blocks)
        if len(batch.single) == query.shape[2]:
            # A decode step: nothing to put together.
            new = (states[0].transpose(0, 1) for states in (query, key_states, value_states))
            return self._decode(batch, *new, softmax_scale, softcap or 0.0, sink_logits).unsqueeze(0)
        output = query.new_zeros(1, query.shape[2], query.shape[1], value_states.shape[3])
        if batch.single:
            part = batch.single_places
            # [n, H, D]
            new = (states[0, :, part].transpose(0, 1) for states in (query, key_states, value_states))
            output[0, part] = self._decode(batch, *new, softmax_scale, softcap or 0.0, sink_logits)
        for row in batch.several:
            part = slice(row.begin, row.begin + row.count)
            new = (states[:, :, part] for states in (query, key_states, value_states))
            output[0, part] = self._prefill(row, *new, softmax_scale, softcap, sink_logits)[0].transpose(0, 1)
        return output

    def _decode(
        self,
        batch: Batch,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        softmax_scale: float,
        softcap: float,
        sink_logits: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the attention of one new token per row, `[n, Hq, Dv]`, for `[n, H, D]`; full pages are coded then."""
        storage, rows = self.storage, batch.decode_rows
        storage.write_last(rows, keys, values)
        output = storage.decode_attention(query.unsqueeze(2), rows, softmax_scale, softcap, sink_logits)
        size = storage.page_tokens
        for row in batch.single:
            length = row.past + 1
            if length % size == 0:
                own = storage.read_exact(row.slot, length - size, length)
                storage.close_pages(row.slot, length // size - 1, *(states[None] for states in own), row.blocks)
        return output[:, :, 0]

    def _prefill(
        self,
        row: BatchRow,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        softmax_scale: float,
        softcap: float | None,
        sink_logits: torch.Tensor | None,
    ) -> torch.Tensor:
        """Store several new tokens `[1, H, count, D]` of one row and return their attention, `[1, Hq, count, Dv]`."""
        storage, rule = self.storage, self.batch.layout.rule
        size = rule.page_tokens
        keys, values = keys.to(storage.exact_keys.dtype), values.to(storage.exact_values.dtype)
        end, first = row.past + row.count, row.past // size
        exact, section, full = rule.first_exact(first), rule.section(first), end // size
        if exact * size < row.past:
            held = storage.read_exact(row.slot, exact * size, row.past)
            keys, values = (
                torch.cat([old.unsqueeze(0), new], dim=2) for old, new in zip(held, (keys, values), strict=True)
            )
        if full > first:
            part = slice((first - exact) * size, (full - exact) * size)
            pages = (
                states[0, :, part].unflatten(1, (full - first, size)).transpose(0, 1) for states in (keys, values)
            )
            storage.close_pages(row.slot, first, *pages, row.blocks)
        coded = rule.first_exact((end - 1) // size)
        if coded > section:
            read = storage.read_pages(row.slot, section, coded - section, row.blocks, query.dtype)
        else:
            read = keys[:, :, :0], values[:, :, :0]
        earlier = self._earlier(row, section, query.dtype) if section else None
        output = page_prefill_attention(
            query.to(keys.dtype),
            Frame(keys, values, exact - section, row.past - section * size, *read, earlier),
            rule,
            softmax_scale,
            softcap,
            sink_logits,
        )
        # Page 0 was stored with its sinks first if it is full now.
        start = max(row.past, rule.first_exact(full) * size, size if first == 0 < full else 0)
        if start < end:
            rest = (states[0, :, start - exact * size :] for states in (keys, values))
            storage.write_exact(row.slot, start, *rest)
        return output

    def _earlier(self, row: BatchRow, count: int, dtype: torch.dtype) -> Callable[[], Parts]:
        """Return the function that yields the first `count` pages of a row as they are read."""
        step = max(EARLIER_TOKENS // self.storage.page_tokens, 1)

        def parts() -> Parts:
            for first in range(0, count, step):
                pages = min(step, count - first)
                yield self.storage.read_pages(row.slot, first, pages, row.blocks, dtype)

        return parts
