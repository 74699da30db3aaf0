# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""StoredRows: what one layer keeps, row by row: reading it back, cropping, reordering, selecting and repeating rows.

layer.py adds what a forward pass does. storage.py owns the buffers, sinks.py the order of the first tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers.cache_utils import CacheLayerMixin

from ..attention.masks import NO_OFFSET
from ..codebook.codebook import Codebook
from ..ops.backend import Backend, backend
from ..ops.blockwise import Block
from ..ops.to_device import to_device
from ..ops.types import CacheBuffers, LayerCodebook
from .forward_pass import ForwardPass, Lengths
from .row_checks import check_crop, check_repeats, row_numbers
from .sinks import SinkOrder
from .storage import GrowingStorage, ordinary_tensors


class StoredRows(CacheLayerMixin):
    """The rows of one layer.

    Args:
        layer_idx: index of the layer in the model.
        codebook: the model's codebook.
        storage: the layer's buffers.
        sinks: the order of the first tokens.
        forward_pass: what the layers of one cache share.
    """

    is_sliding = False
    is_croppable = True
    is_compileable = False

    def __init__(
        self, layer_idx: int, codebook: Codebook, storage: GrowingStorage, sinks: SinkOrder, forward_pass: ForwardPass
    ):
        super().__init__()
        self.layer_idx = layer_idx
        self.codebook = codebook
        self.storage = storage
        self.sinks = sinks
        self.forward_pass = forward_pass
        self.cumulative_length: int | torch.Tensor = 0
        """Columns seen, padding included."""
        self.is_initialized = False

    def __repr__(self):
        formats = "/".join(fmt.name for fmt in self.storage.formats)
        return f"{type(self).__name__}({formats}, {int(self.cumulative_length)} tokens)"

    @property
    def residual_length(self) -> int:
        """Recent tokens kept in full precision."""
        return self.storage.residual_length

    @property
    def sink_length(self) -> int:
        """Early tokens of each row kept in full precision."""
        return self.storage.sink_length

    @property
    def sink_choice(self) -> str:
        """How these were chosen, see `VecInferConfig.sink_choice`."""
        return self.sinks.sink_choice

    @property
    def buffers(self) -> CacheBuffers | None:
        """The tensors of this layer; None before the first token."""
        return self.storage.buffers

    @property
    def layer_codebook(self) -> LayerCodebook:
        """This layer's codebook on this layer's device."""
        return self.codebook.layer(self.layer_idx, self.device)

    @property
    def ops(self) -> Backend:
        """The operators of the backend in use."""
        return backend(self.ops_name)

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this layer: codes, sinks, window, lengths, the order of the first tokens, codebook."""
        return self.storage.nbytes + self.sinks.nbytes + self.codebook.layers[self.layer_idx].nbytes

    def read_lengths(self) -> Lengths:
        """Return what this layer holds, from the device if only the device knows."""
        if not self.is_initialized:
            return Lengths(0, [], [])
        return Lengths(int(self.cumulative_length), *self.storage.lengths())

    def blocks(self, lengths: Lengths) -> Iterator[Block]:
        """Yield everything stored as `ops.blockwise.Block`s; `lengths` is what `read_lengths` returned."""

        def dequantize(start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
            return self.ops.dequantize(self.buffers, self.layer_codebook, start, count, self.dtype)

        return self.storage.blocks(dequantize, max(lengths.quantized, default=0))

    def read(self, columns: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of the first `columns` columns (default all); padding columns are zero.

        Returns:
            `[B, Hkv, columns, Dk]` and `[B, Hkv, columns, Dv]`, codes dequantized, in the dtype they are stored in.
        """
        lengths = self.read_lengths()
        columns = lengths.columns if columns is None else columns
        longest = max(lengths.tokens)
        states = self.storage.read(self.blocks(lengths), longest)
        for side in states:
            self.sinks.text_order(side)
        valid = self.forward_pass.padding.columns_until(columns)
        if valid is None:
            return states[0][:, :, :columns], states[1][:, :, :columns]
        valid = valid.to(self.device)
        index = torch.where(valid, valid.cumsum(1) - 1, longest)[:, None, :, None]
        for side in states:
            side[:, :, longest] = 0
        return tuple(side.gather(2, index.expand(-1, side.shape[1], -1, side.shape[3])) for side in states)

    def get_seq_length(self) -> int | torch.Tensor:
        """Return the columns seen, padding included; a scalar on the device while a step is recorded."""
        recorded = self.forward_pass.recorded_columns
        return self.cumulative_length if recorded is None else recorded

    def note_stored(self, columns: int, tokens: list[int], quantized: list[int]) -> None:
        """Note on the host what a recorded step has stored: the columns, and each row's tokens and codes, after it."""
        self.storage.note_lengths(tokens, quantized)
        self._set_columns(columns)

    def settle_recorded(self) -> None:
        """Note on the host what an interrupted replay has stored: none of its tokens, or one in each row."""
        if self.is_initialized:
            tokens, quantized = self.storage.read_device_lengths()
            stored = tokens[0] - self.storage.tokens[0]
            self.note_stored(int(self.cumulative_length) + stored, tokens, quantized)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the columns of a mask for `query_length` more tokens, and its offset, 0 (`masks.NO_OFFSET`)."""
        return self.cumulative_length + query_length, NO_OFFSET

    def get_max_length(self) -> int:
        """Return -1: the layer grows without bound."""
        return -1

    def settle(self) -> None:
        """Repair a store that was interrupted; see `GrowingStorage.settle`."""
        before = self.storage.torn
        if before is not None:
            self.storage.settle()
            self._set_columns(before.columns)
            if not any(before.tokens):
                self.sinks.clear()

    def reset(self) -> None:
        """Forget everything and free the buffers."""
        self.storage.clear()
        self.sinks.clear()
        self.cumulative_length = 0
        self.is_initialized = False

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last `|tokens_to_remove|` columns.

        Lengths move, codes stay codes: after a crop the exact window is shorter until it has filled again. A crop into
        the first tokens, among which sinks were chosen, replaces the sinks that it cuts off; see `SinkOrder.crop`.

        Args:
            tokens_to_remove: 0 or negative.

        Raises:
            UnsupportedCallError: if it is positive.
        """
        tokens_to_remove = check_crop(tokens_to_remove)
        self.settle()
        if tokens_to_remove == 0 or not self.is_initialized:
            return
        before = self.read_lengths()
        columns = max(before.columns + tokens_to_remove, 0)
        removed = self.forward_pass.padding.valid_tokens(columns, before.columns, len(before.tokens))
        left = [tokens - count for tokens, count in zip(before.tokens, removed, strict=True)]
        cut = [row for row, count in enumerate(self.sinks.ordered) if left[row] < count]
        if any(left) and cut:
            self._replace_sinks(cut, left, before)
        self._keep(columns, left, before)

    def _keep(self, columns: int, left: list[int], before: Lengths) -> None:
        """Keep the first `columns` columns, the first `left[b]` tokens of each row."""
        self.storage.crop(left, (before.tokens, before.quantized))
        self._set_columns(columns)
        if not any(left):
            self.sinks.clear()

    def _set_columns(self, columns: int) -> None:
        self.cumulative_length = columns

    def _replace_sinks(self, rows: list[int], left: list[int], before: Lengths) -> None:
        """Give the places of sinks that a crop to `left[b]` tokens cuts off to other tokens, in the rows `rows`."""
        kept, coded = [left[row] for row in rows], [before.quantized[row] for row in rows]
        places = max(self.sinks.ordered[row] for row in rows)
        first = before._replace(quantized=[min(count, places) for count in before.quantized])
        try:
            with ordinary_tensors():
                states = self.storage.read(self.blocks(first), places)
                index = to_device(rows, self.device)
                states = [side[index, :, :places] for side in states]
                source = self.sinks.crop(rows, kept, coded, states[1]).unsqueeze(-1)
                states = [side.gather(2, source.expand(-1, -1, -1, side.shape[3])) for side in states]
                self.storage.rewrite(rows, states, kept, coded)
        except BaseException:
            self.reset()  # some sinks may be overwritten already
            raise

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Keep the rows `beam_idx`, in that order, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices` `[n]` (integers, negative ones from the end, or bool `[B]`), in that order.

        Raises:
            UnsupportedCallError: for a row that is not there.
        """
        self.settle()
        if not self.is_initialized:
            return
        rows = row_numbers(indices, self.storage.batch_size)
        # One row stands for all where all rows hold equally much, which needs no look at the device.
        self._select(rows.tolist() if rows.device.type == "cpu" or not self._is_uniform() else None, rows)

    def _is_uniform(self) -> bool:
        lengths = (self.storage.tokens, self.storage.quantized, self.sinks.ordered or self.storage.tokens)
        return len(set(zip(*lengths, strict=True))) == 1

    def _select(self, rows: list[int] | None, indices: torch.Tensor) -> None:
        rows = [0] * len(indices) if rows is None else rows
        indices = indices.to(self.device)
        self.storage.select(rows, indices)
        with ordinary_tensors():
            self.sinks.select(rows, indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times in place."""
        repeats = check_repeats(repeats)
        self.settle()
        if self.is_initialized:
            rows = [row for row in range(self.storage.batch_size) for _ in range(repeats)]
            self._select(rows, torch.tensor(rows))

    def offload(self) -> None:
        """Move all buffers to the CPU."""
        if self.is_initialized:
            self.storage.move("cpu")

    def prefetch(self) -> None:
        """Move all buffers back to the device they were made on."""
        if self.is_initialized:
            self.storage.move(self.device)
