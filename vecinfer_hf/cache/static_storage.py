# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""FixedStorage: the buffers of a static layer, allocated once. Lengths live on the device, addresses never change."""

from __future__ import annotations

import torch

from ..ops.types import MAX_DECODE_QUERIES
from ..quantization.formats import CodeFormat
from ..quantization.packing import TILE
from .storage import GrowingStorage, ordinary_tensors


class FixedStorage(GrowingStorage):
    """Sinks, codes and exact window for at most `max_cache_len` tokens per row.

    Args:
        formats: code format of keys and values.
        residual_length: recent tokens kept in full precision.
        sink_length: early tokens kept in full precision.
        max_cache_len: tokens of each row, at most.
    """

    def __init__(
        self, formats: tuple[CodeFormat, CodeFormat], residual_length: int, sink_length: int, max_cache_len: int
    ):
        self.max_cache_len = max_cache_len
        super().__init__(formats, residual_length, sink_length)

    def clear(self) -> None:
        """Forget everything; the buffers stay where they are."""
        buffers = getattr(self, "buffers", None)
        super().clear()
        if buffers is not None:
            self.buffers = buffers
            with ordinary_tensors():
                buffers.lengths.zero_()
                buffers.quantized_lengths.zero_()

    def _first_tiles(self) -> int:
        return -(-max(self.max_cache_len - self.sink_length - self.residual_length, 0) // TILE)

    def _first_slots(self) -> int:
        return min(self.residual_length, max(self.max_cache_len - self.sink_length, MAX_DECODE_QUERIES))

    def lengths(self) -> tuple[list[int], list[int]]:
        """Return every row's tokens and quantized tokens, read from the device."""
        return self.read_device_lengths()

    def note_lengths(self, tokens: list[int], quantized: list[int]) -> None:
        """Note nothing: the operators set the lengths on the device, which alone knows them."""

    def has_room(self, counts: list[int], before: tuple[list[int], list[int]]) -> bool:
        """Return True: everything is reserved already."""
        return True

    def reserve(self, counts: list[int], before: tuple[list[int], list[int]]) -> None:
        """Everything is reserved already."""

    def select(self, rows: list[int], indices: torch.Tensor) -> None:
        """Put the rows `indices` int64 `[B]` into this order, in place."""
        with ordinary_tensors():
            for tensor in self.buffers:
                if tensor is not None:
                    tensor.copy_(tensor.index_select(0, indices))

    def move(self, device: torch.device | str) -> None:
        """Leave the buffers where they are: a compiled step knows them by their addresses."""
