# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""PagedStorage: one layer's codes in blocks of a pool, and the exact last page of each running request.

Owns what a page holds and when it is coded. Who gets which block and slot is decided elsewhere (page_allocator.py in
integration/, or another engine); this file knows no request.

A full page is coded at once, page 0 without its sinks. Its tokens stay exact beside the codes as long as the page rule
(attention/page_rule.py) reads them so. Place `i` of a request's exact tokens holds token `i` for `i < S`, later the
sinks. The others lie in a ring of C behind them, token `i` at place `S + (i - S) % C`, where the operators look for
it; once page 0 is full, its tokens count with the sinks first.
"""

from __future__ import annotations

import torch

from ..ops.backend import Backend
from ..ops.to_device import to_device
from ..ops.types import LayerCodebook, PagedBuffers
from ..quantization.formats import CodeFormat
from ..quantization.packing import TILE, bytes_per_tile
from .page_layout import PageLayout
from .paged_rows import DecodeRows, TextBlocks
from .sinks import choose_sinks, sinks_to_front


class PagedStorage:
    """The pages of one layer.

    Args:
        pool: uint8 `[num_blocks, bytes]`, this layer's part of every block; a view of the engine's memory.
        layout: the sizes.
        slots: requests that can be under way at once.
        heads: key/value heads.
        head_dims: elements of a key and of a value.
        formats: code formats of keys and values.
        codebook: the layer's codebook, on the pool's device.
        sink_choice: see `VecInferConfig.sink_choice`.
        ops: the operators in use.
        dtype: dtype of exact keys and values.
    """

    def __init__(
        self,
        pool: torch.Tensor,
        layout: PageLayout,
        slots: int,
        heads: int,
        head_dims: tuple[int, int],
        formats: tuple[CodeFormat, CodeFormat],
        codebook: LayerCodebook,
        sink_choice: str,
        ops: Backend,
        dtype: torch.dtype,
    ):
        self.pool, self.page_tokens, self.sink_length = pool, layout.page_tokens, layout.sink_length
        self.codebook, self.sink_choice, self.ops = codebook, sink_choice, ops
        tile = bytes_per_tile(*formats, *head_dims)
        tiles = self.page_tokens // TILE
        self.codes = pool[:, : heads * tiles * tile].unflatten(1, (heads, tiles, tile))
        self.ring = layout.rule.exact_tokens
        exact = self.sink_length + self.ring
        self.exact_keys, self.exact_values = (
            torch.zeros(slots, heads, exact, dim, dtype=dtype, device=pool.device) for dim in head_dims
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the exact tokens of all slots; blocks belong to the engine's memory."""
        return self.exact_keys.nbytes + self.exact_values.nbytes

    def places(self, start: int, end: int) -> torch.Tensor:
        """Return where the exact tokens `start .. end - 1` of a text lie in their slot, int64 `[end - start]`."""
        sinks = self.sink_length
        token = torch.arange(start, end, device=self.pool.device)
        return torch.where(token < sinks, token, sinks + (token - sinks) % self.ring)

    def write_exact(self, slot: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store tokens of a text from token `start` on: keys `[Hkv, n, Dk]` and values `[Hkv, n, Dv]`, at most C."""
        places = self.places(start, start + keys.shape[1])
        self.exact_keys[slot].index_copy_(1, places, keys.to(self.exact_keys.dtype))
        self.exact_values[slot].index_copy_(1, places, values.to(self.exact_values.dtype))

    def write_last(self, rows: DecodeRows, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store one token of each text: keys `[n, Hkv, Dk]` and values `[n, Hkv, Dv]`."""
        self.exact_keys[rows.slots, :, rows.places] = keys.to(self.exact_keys.dtype)
        self.exact_values[rows.slots, :, rows.places] = values.to(self.exact_values.dtype)

    def read_exact(self, slot: int, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens `start .. end - 1`, which are still exact: `[Hkv, n, Dk]` and `[Hkv, n, Dv]`."""
        places = self.places(start, end)
        return self.exact_keys[slot].index_select(1, places), self.exact_values[slot].index_select(1, places)

    def close_pages(self, slot: int, first: int, keys: torch.Tensor, values: torch.Tensor, blocks: TextBlocks) -> None:
        """Code full pages of one text.

        Args:
            slot: the text's slot; it gets the tokens of page 0 with the sinks first.
            first: the first of the pages.
            keys: `[n, Hkv, N, Dk]`, the pages' exact keys in the text's order.
            values: `[n, Hkv, N, Dv]`.
            blocks: the text's blocks.
        """
        sinks = self.sink_length
        if first == 0 and sinks:
            chosen = choose_sinks(_steps_of_size(values[:1]), sinks, self.sink_choice)
            order = sinks_to_front(chosen)
            kept = []
            for states, exact in ((keys, self.exact_keys), (values, self.exact_values)):
                early, count = states[:1], order.shape[2]
                moved = early[:, :, :count].gather(2, order.unsqueeze(-1).expand(-1, -1, -1, states.shape[3]))
                whole = torch.cat([moved, early[:, :, count:]], dim=2)
                exact[slot].index_copy_(1, self.places(0, self.page_tokens), whole[0].to(exact.dtype))
                kept.append(whole[:, :, sinks:])
            self._write_header(slot, blocks)
            # Its last places hold no code; the block's bytes are to be the tokens' alone.
            self.pool[blocks.pages[0]].zero_()
            self._quantize(*kept, blocks.page_index[:1])
            keys, values, first = keys[1:], values[1:], 1
        if keys.shape[0]:
            self._quantize(keys, values, blocks.page_index[first : first + keys.shape[0]])

    def _quantize(self, keys: torch.Tensor, values: torch.Tensor, blocks: torch.Tensor) -> None:
        """Code tokens `[n, Hkv, T, D]` into the beginnings of the blocks int32 `[n]`."""
        nothing = torch.zeros_like(blocks)
        counts = torch.full_like(blocks, keys.shape[2])
        buffers = self._buffers(blocks.unsqueeze(1), nothing, nothing, slice(0, 0))
        self.ops.quantize(keys, values, buffers, nothing, counts, nothing, self.codebook)

    def _write_header(self, slot: int, blocks: TextBlocks) -> None:
        sinks = self.sink_length
        parts = (exact[slot, :, :sinks].reshape(-1) for exact in (self.exact_keys, self.exact_values))
        data = torch.cat([part.view(torch.uint8) for part in parts])
        count = len(blocks.header)
        data = torch.nn.functional.pad(data, (0, count * self.pool.shape[1] - data.shape[0])).view(count, -1)
        self.pool[blocks.header_index] = data

    def load_sinks(self, slot: int, blocks: TextBlocks) -> None:
        """Copy the sinks of a text whose first page is in blocks already into the slot that continues it."""
        sinks = self.sink_length
        if not sinks:
            return
        data, start = self.pool[blocks.header_index].flatten(), 0
        for exact in (self.exact_keys, self.exact_values):
            shape = exact.shape[1], sinks, exact.shape[3]
            size = shape[0] * shape[1] * shape[2] * exact.element_size()
            exact[slot, :, :sinks] = data[start : start + size].view(exact.dtype).view(shape)
            start += size

    def copy_slots(self, copies: list[tuple[int, int]]) -> None:
        """Copy the exact tokens of slots to others, (from, to)."""
        source, target = to_device([list(side) for side in zip(*copies, strict=True)], self.pool.device)
        for exact in (self.exact_keys, self.exact_values):
            exact.index_copy_(0, target, exact.index_select(0, source))

    def read_pages(self, slot: int, first: int, count: int, blocks: TextBlocks, dtype: torch.dtype):
        """Return coded pages as they are read, `N` tokens each, in no particular order within page 0.

        Args:
            slot: the text's slot, for its sinks.
            first: the first page.
            count: pages.
            blocks: the text's blocks.
            dtype: dtype of the result.

        Returns:
            Keys `[1, Hkv, count * N, Dk]` and values `[1, Hkv, count * N, Dv]`.
        """
        table = blocks.page_index[first : first + count].unsqueeze(0)
        nothing = torch.zeros_like(table[0, :1])
        buffers = self._buffers(table, nothing, nothing, slice(0, 0))
        read = self.ops.dequantize(buffers, self.codebook, 0, count * self.page_tokens, dtype)
        sinks = self.sink_length
        if first == 0 and sinks:
            # The last places of page 0 hold no code.
            for states, exact in zip(read, (self.exact_keys, self.exact_values), strict=True):
                states[0, :, self.page_tokens - sinks : self.page_tokens] = exact[slot, :, :sinks].to(dtype)
        return read

    def decode_attention(
        self,
        query: torch.Tensor,
        rows: DecodeRows,
        softmax_scale: float,
        softcap: float,
        sink_logits: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the attention of the last token of some texts, already stored exactly, `[n, Hq, 1, Dv]`.

        Args:
            query: `[n, Hq, 1, Dk]`.
            rows: the texts.
            softmax_scale: factor on `q . k`.
            softcap: softcap of the scaled scores; 0 for none.
            sink_logits: `[Hq]`, or None.
        """
        count = rows.lengths.shape[0]
        buffers = self._buffers(rows.table, rows.lengths, rows.quantized, slice(count))
        query = query.to(self.exact_keys.dtype)
        if not rows.in_order:
            query = query.new_zeros(count, *query.shape[1:]).index_copy_(0, rows.slots, query)
        output, _ = self.ops.decode_attention(query, buffers, self.codebook, softmax_scale, softcap, sink_logits)
        return output if rows.in_order else output.index_select(0, rows.slots)

    def _buffers(
        self, table: torch.Tensor, lengths: torch.Tensor, quantized: torch.Tensor, rows: slice
    ) -> PagedBuffers:
        """Return the operators' view of some slots."""
        keys, values, sinks = self.exact_keys[rows], self.exact_values[rows], self.sink_length
        return PagedBuffers(
            self.codes,
            keys[:, :, :sinks],
            values[:, :, :sinks],
            keys[:, :, sinks:],
            values[:, :, sinks:],
            lengths,
            quantized,
            table,
        )


def _steps_of_size(values: torch.Tensor) -> torch.Tensor:
    """Return the sizes of values `[B, Hkv, T, D]` in steps of 9 %, `[B, Hkv, T, 1]`, for the choice of sinks.

    Equal tokens have values of equal size but for rounding, which differs from batch to batch; among equal steps the
    earlier token is chosen, in every batch.
    """
    size = values.float().square().sum(-1, keepdim=True)
    # Not a number and infinity count as large. Positive, as the choice squares it.
    return (8 * size.log2()).round().nan_to_num(torch.inf, torch.inf, -1200).clamp(-1200, 1200) + 1201
