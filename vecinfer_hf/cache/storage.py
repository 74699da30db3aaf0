# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""GrowingStorage: the buffers of one layer and the lengths of its rows.

Owns growth, filling, reading back, and the rows' lengths on the host. static_storage.py differs in that nothing grows
and lengths stay on the device. Which token is a sink is the business of sinks.py, padding that of padding.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from ..ops.backend import Backend
from ..ops.blockwise import Block, cache_blocks
from ..ops.placement import store_tokens, window_span
from ..ops.types import MAX_DECODE_QUERIES, CacheBuffers, LayerCodebook
from ..quantization.formats import CodeFormat
from ..quantization.packing import TILE, bytes_per_tile
from .forward_pass import Lengths
from .sinks import Piece


GROWTH = 1.125
"""A full buffer grows by an eighth: copying stays a constant cost per token and at most an eighth lies idle."""


def ordinary_tensors() -> AbstractContextManager[None]:
    """Make tensors that later calls may change in any mode: neither inference tensors nor part of a graph."""
    # A compiler cannot ask for the mode.
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        return _without_modes()
    return _AS_IT_IS


@contextmanager
def _without_modes() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad():
        yield


_AS_IT_IS = nullcontext()


class GrowingStorage:
    """Sinks, codes and exact window of one layer, growing as tokens come.

    Args:
        formats: code format of keys and values.
        residual_length: recent tokens kept in full precision.
        sink_length: early tokens kept in full precision.
    """

    def __init__(self, formats: tuple[CodeFormat, CodeFormat], residual_length: int, sink_length: int):
        self.formats = formats
        self.residual_length = residual_length
        self.sink_length = sink_length
        self.clear()

    def clear(self) -> None:
        """Forget everything and free the buffers."""
        self.buffers: CacheBuffers | None = None
        self.tokens: list[int] = []
        """Stored tokens of each row; `buffers.lengths` on the host."""
        self.quantized: list[int] = []
        """Tokens of each row that are codes; `buffers.quantized_lengths` on the host."""
        self.torn: Lengths | None = None
        """What the layer held before a call that ended while it stored; None if none did."""

    def allocate(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make empty buffers for keys `[B, Hkv, T, Dk]` and values `[B, Hkv, T, Dv]`, with the dtype of the values."""
        batch, heads, _, key_dim = key_states.shape
        like = {"device": value_states.device, "dtype": value_states.dtype}
        sizes = key_dim, value_states.shape[3]
        tile = bytes_per_tile(*self.formats, *sizes)
        with ordinary_tensors():
            self.buffers = CacheBuffers(
                torch.zeros(batch, heads, self._first_tiles(), tile, dtype=torch.uint8, device=like["device"]),
                *(torch.zeros(batch, heads, self.sink_length, size, **like) for size in sizes),
                *(torch.zeros(batch, heads, self._first_slots(), size, **like) for size in sizes),
                *(torch.zeros(batch, dtype=torch.int32, device=like["device"]) for _ in range(2)),
            )
        self.tokens, self.quantized = [0] * batch, [0] * batch

    def _first_tiles(self) -> int:
        return 0

    def _first_slots(self) -> int:
        return 0

    @property
    def batch_size(self) -> int:
        """Rows."""
        return self.buffers.lengths.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return 0 if self.buffers is None else self.buffers.nbytes

    def lengths(self) -> tuple[list[int], list[int]]:
        """Return every row's tokens and quantized tokens, on the host."""
        return self.tokens, self.quantized

    def append(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        before: tuple[list[int], list[int]],
        codebook: LayerCodebook,
        ops: Backend,
    ) -> None:
        """Append the same few tokens to every row, `[B, Hkv, T, Dk]` and `[B, Hkv, T, Dv]`, by the fused operator.

        Args:
            key_states: keys.
            value_states: values.
            before: what `lengths` returned before this call.
            codebook: the layer's codebook.
            ops: the operators in use.
        """
        count = key_states.shape[2]
        with ordinary_tensors():
            self.reserve([count] * self.batch_size, before)
            ops.append(key_states, value_states, self.buffers, codebook)
            self.note_lengths(
                [tokens + count for tokens in before[0]],
                [
                    window_span(tokens, count, coded, self.sink_length, self.residual_length)[0]
                    for tokens, coded in zip(*before, strict=True)
                ],
            )

    def store(
        self, pieces: list[Piece], before: tuple[list[int], list[int]], codebook: LayerCodebook, ops: Backend
    ) -> None:
        """Store any number of tokens, each row its own number; see `append`."""
        with ordinary_tensors():
            self.reserve([sum(counts) for counts in zip(*(piece.counts for piece in pieces), strict=True)], before)
            lengths = before
            for piece in pieces:
                lengths = store_tokens(*piece, *lengths, self.buffers, codebook, ops.quantize)
            self.note_lengths(*lengths)

    def note_lengths(self, tokens: list[int], quantized: list[int]) -> None:
        """Note on the host each row's tokens and quantized tokens; the device has stored them."""
        self.tokens, self.quantized = tokens, quantized

    def read_device_lengths(self) -> tuple[list[int], list[int]]:
        """Return every row's tokens and quantized tokens, read from the device."""
        return self.buffers.lengths.tolist(), self.buffers.quantized_lengths.tolist()

    def settle(self) -> None:
        """Make host and device agree after a call that ended while it stored: as before it, but codes stay codes.

        A token is quantized before its place in the ring is used again, and the device's count of codes is raised in
        between, so tokens up to that count are codes and the later ones are still in the ring.
        """
        if self.torn is not None:
            tokens = self.torn.tokens
            most = [max(count - self.sink_length, 0) for count in tokens]
            codes = self.buffers.quantized_lengths.tolist()
            self._write_lengths(tokens, [min(pair) for pair in zip(codes, most, strict=True)])
            self.torn = None

    def _write_lengths(self, tokens: list[int], quantized: list[int]) -> None:
        """Set the lengths on the host and on the device."""
        with ordinary_tensors():
            self.buffers.lengths.copy_(torch.tensor(tokens, dtype=torch.int32))
            self.buffers.quantized_lengths.copy_(torch.tensor(quantized, dtype=torch.int32))
        self.note_lengths(tokens, quantized)

    def _needed(self, counts: list[int], before: tuple[list[int], list[int]]) -> tuple[int, int]:
        """Return the tiles and the ring's slots that `counts[b]` more tokens in row `b` need."""
        spans = [
            window_span(tokens, count, coded, self.sink_length, self.residual_length)
            for tokens, count, coded in zip(before[0], counts, before[1], strict=True)
        ]
        coded, ends = max(span[0] for span in spans), max(span[1] for span in spans)
        # The operators take MAX_DECODE_QUERIES tokens only into a ring of as many slots.
        return -(-coded // TILE), min(max(ends, MAX_DECODE_QUERIES), self.residual_length)

    def has_room(self, counts: list[int], before: tuple[list[int], list[int]]) -> bool:
        """Return whether `reserve` would leave the buffers as they are."""
        tiles, places = self._needed(counts, before)
        return tiles <= self.buffers.codes.shape[2] and places <= self.buffers.ring_keys.shape[2]

    def reserve(self, counts: list[int], before: tuple[list[int], list[int]]) -> None:
        """Make room for `counts[b]` more tokens in row `b`."""
        tiles, places = self._needed(counts, before)
        buffers = self.buffers
        have = buffers.codes.shape[2]
        if tiles > have:
            # The first prompt gets exactly what it needs, later growth is geometric.
            buffers = buffers._replace(codes=_grown(buffers.codes, max(tiles, int(have * GROWTH))))
        have = buffers.ring_keys.shape[2]
        if places > have:
            size = min(self.residual_length, max(places, int(have * GROWTH) + TILE if have else places))
            buffers = buffers._replace(
                ring_keys=_grown(buffers.ring_keys, size), ring_values=_grown(buffers.ring_values, size)
            )
        self.buffers = buffers

    def blocks(
        self, dequantize: Callable[[int, int], tuple[torch.Tensor, torch.Tensor]], most_codes: int
    ) -> Iterator[Block]:
        """Yield everything stored.

        Args:
            dequantize: (first code, count) -> keys and values `[B, Hkv, count, D]`.
            most_codes: quantized tokens of the row that has most.
        """
        return cache_blocks(self.buffers, dequantize, most_codes)

    def read(self, blocks: Iterator[Block], longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values `[B, Hkv, longest + 1, D]` of the first places; the last one is spare."""
        states = [
            torch.zeros(*sinks.shape[:2], longest + 1, sinks.shape[3], dtype=sinks.dtype, device=sinks.device)
            for sinks in (self.buffers.sink_keys, self.buffers.sink_values)
        ]
        for block in blocks:
            # Empty places, of index -1, and those behind the longest land in the spare last token.
            index = block.token_index.masked_fill(block.token_index < 0, longest).clamp_max(longest)
            index = index.expand(self.batch_size, -1)[:, None, :, None]
            for whole, part in zip(states, block[:2], strict=True):
                whole.scatter_(2, index.expand_as(part), part.to(whole.dtype))
        return states[0], states[1]

    def crop(self, left: list[int], before: tuple[list[int], list[int]]) -> None:
        """Keep the first `left[b]` tokens of each row. Codes stay codes, so the exact window may be shorter."""
        most = [max(tokens - self.sink_length, 0) for tokens in left]
        self._write_lengths(left, [min(pair) for pair in zip(before[1], most, strict=True)])

    def rewrite(
        self, rows: list[int], states: tuple[torch.Tensor, torch.Tensor], left: list[int], quantized: list[int]
    ) -> None:
        """Write the sinks and the window of some rows anew; codes and lengths stay as they are.

        Args:
            rows: `R` rows.
            states: keys and values `[R, Hkv, n, D]`, what the first `n` places are to hold.
            left: tokens of each of the rows.
            quantized: coded tokens of each of them.
        """
        for number, (row, tokens, coded) in enumerate(zip(rows, left, quantized, strict=True)):
            end, slots = tokens - self.sink_length, self.buffers.ring_keys.shape[2]
            for side, sinks, ring in zip(states, self.buffers[1:3], self.buffers[3:5], strict=True):
                some = side[number, :, : self.sink_length]
                sinks[row, :, : some.shape[1]] = some
                if end > coded:
                    places = torch.arange(coded, end, device=side.device) % slots
                    recent = side[number, :, self.sink_length + coded : self.sink_length + end]
                    ring[row].index_copy_(1, places, recent)

    def select(self, rows: list[int], indices: torch.Tensor) -> None:
        """Keep the rows `indices` int64 `[n]`, which are the host's `rows`, in that order."""
        with ordinary_tensors():
            self._map_buffers(lambda tensor: tensor.index_select(0, indices))
        self.note_lengths([self.tokens[row] for row in rows], [self.quantized[row] for row in rows])

    def move(self, device: torch.device | str) -> None:
        """Move all buffers to `device`."""
        with ordinary_tensors():
            self._map_buffers(lambda tensor: tensor.to(device, non_blocking=True))

    def _map_buffers(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.buffers = CacheBuffers(*(None if tensor is None else change(tensor) for tensor in self.buffers))


def _grown(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """Copy `tensor` into one with `size` places in dimension 2."""
    grown = tensor.new_zeros(*tensor.shape[:2], size, *tensor.shape[3:])
    grown[:, :, : tensor.shape[2]] = tensor
    return grown
