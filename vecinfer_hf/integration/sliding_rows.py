# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""SlidingRows: a sliding-window layer beside pages of codes. Its keys stay in transformers' own pages, in full.

Owns the attention over them, row by row and masked to the window.
"""

from __future__ import annotations

from typing import Any

import torch

from ..attention.full_precision import full_precision_attention
from ..cache.handle import CacheHandle
from ..cache.paged_rows import BatchRow


class SlidingRows:
    """One sliding-window layer.

    Args:
        layer_idx: index of the layer in the model.
        allocator: transformers' allocator of its pages.
    """

    def __init__(self, layer_idx: int, allocator: Any):
        self.layer_idx, self.allocator = layer_idx, allocator
        self.sliding_window = allocator.sliding_window

    @property
    def forward_pass(self) -> SlidingRows:
        """What a handle tells that its keys were refused."""
        return self

    def abandon(self) -> None:
        """End a refused call."""

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        rows: list[BatchRow],
        read_index: list[torch.Tensor],
        write_index: list[torch.Tensor],
    ):
        """Return two `CacheHandle` for packed keys and values `[1, Hkv, T, D]` of `rows`."""
        self.rows = rows
        self.read_index, self.write_index = (index[self.allocator.index] for index in (read_index, write_index))
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
        """Store new tokens and return their attention over the window `[1, T, Hq, D]`; see `PagedLayer.attend`."""
        packed = (states.squeeze(0).transpose(0, 1) for states in (key_states, value_states))
        keys, values = self.allocator.update(*packed, self.layer_idx, self.read_index, self.write_index)
        output = query.new_zeros(1, query.shape[2], query.shape[1], value_states.shape[3])
        start = 0
        for row in self.rows:
            length = self.allocator.get_seqlen_k(row.past, row.count) if self.read_index.numel() else row.count
            if not row.count:
                # A prompt of one token is forked before it is read.
                start += length
                continue
            own = (states[start : start + length].transpose(0, 1).unsqueeze(0) for states in (keys, values))
            part = slice(row.begin, row.begin + row.count)
            key_place = torch.arange(length, device=query.device)
            query_place = torch.arange(length - row.count, length, device=query.device).unsqueeze(1)
            mask = (key_place <= query_place) & (key_place > query_place - self.sliding_window)
            output[0, part] = full_precision_attention(
                module, query[:, :, part], *own, mask[None, None], softmax_scale, softcap, sink_logits
            )[0]
            start += length
        return output
