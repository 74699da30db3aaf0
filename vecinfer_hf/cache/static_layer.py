# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""VecInferStaticLayer: a layer whose storage is allocated once and whose decode step is compiled.

Owns what differs from layer.py: nothing grows, nothing moves, and a decode step never looks at the host.
"""

from __future__ import annotations

from typing import Any

import torch

from ..attention.masks import NO_OFFSET
from ..errors import UnsupportedCallError
from ..quantization.formats import CodeFormat
from .forward_pass import Lengths
from .layer import VecInferLayer
from .static_storage import FixedStorage
from .storage import ordinary_tensors


class VecInferStaticLayer(VecInferLayer):
    """A `VecInferLayer` for at most `max_cache_len` columns, with which `generate` compiles its decode step.

    Args:
        arguments: those of `VecInferLayer`.
        max_cache_len: columns it can hold.
    """

    is_compileable = True

    def __init__(self, *arguments: Any, max_cache_len: int):
        self.max_cache_len = max_cache_len
        super().__init__(*arguments)
        # A tensor from the start: an int would be compiled in, and every step would compile again.
        self.cumulative_length = torch.tensor(0)

    def _new_storage(self, formats: tuple[CodeFormat, CodeFormat], residual_length: int, sink_length: int):
        return FixedStorage(formats, residual_length, sink_length, self.max_cache_len)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate all buffers; see `VecInferLayer.lazy_initialization`."""
        super().lazy_initialization(key_states, value_states)
        with ordinary_tensors():
            self.cumulative_length = self.cumulative_length.to(self.device, copy=True)
        if not torch.compiler.is_compiling():
            for tensor in (*self.buffers, self.cumulative_length, *self.layer_codebook):
                # A CUDA graph updates a tensor of fixed address in place, and copies any other into itself every step.
                if tensor is not None:
                    torch._dynamo.mark_static_address(tensor)

    def attend(self, module, query, key_states, value_states, attention_mask, *options) -> torch.Tensor:
        """Store and attend; see `VecInferLayer.attend`.

        A single token in a compiled forward is generate's decode step: every row has it, and the mask says nothing
        that the layer's lengths do not.
        """
        if not (torch.compiler.is_compiling() and query.shape[2] == 1 and self.fits_window(1)):
            return super().attend(module, query, key_states, value_states, attention_mask, *options)
        if self.readers_answered == 0:
            self.cumulative_length.add_(1)
        return self.store_and_attend(query, key_states, value_states, *options)

    def check_room(self, before: Lengths, tokens: int) -> None:
        """Raise UnsupportedCallError if `tokens` more columns do not fit."""
        if before.columns + tokens > self.max_cache_len:
            raise UnsupportedCallError(
                f"{before.columns + tokens} tokens do not fit the static cache of max_cache_len {self.max_cache_len}; "
                'pass a larger max_cache_len in cache_config, or "static": false for a cache that grows.'
            )

    def read_lengths(self) -> Lengths:
        """Return what this layer holds; one copy from the device."""
        if not self.is_initialized:
            return super().read_lengths()
        buffers, rows = self.storage.buffers, self.storage.batch_size
        every = torch.cat((self.cumulative_length.view(1), buffers.lengths, buffers.quantized_lengths)).tolist()
        return Lengths(every[0], every[1 : rows + 1], every[rows + 1 :])

    def get_seq_length(self) -> int | torch.Tensor:
        """Return the columns seen, padding included: 0 before the first token, then a 0-d tensor."""
        return self.cumulative_length if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the columns of a mask, `max_cache_len`, and its offset, 0 (`masks.NO_OFFSET`)."""
        return self.max_cache_len, NO_OFFSET

    def get_max_length(self) -> int:
        """Return `max_cache_len`."""
        return self.max_cache_len

    def _set_columns(self, columns: int) -> None:
        with ordinary_tensors():
            self.cumulative_length.fill_(columns)

    def reset(self) -> None:
        """Forget everything; the buffers stay where they are."""
        self.storage.clear()
        self.sinks.clear()
        self._set_columns(0)

    def _is_uniform(self) -> bool:
        return False

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Put the rows `indices` into this order; as many as there are, since nothing may move."""
        if self.is_initialized and (len(indices) != self.storage.batch_size or indices.dtype == torch.bool):
            raise UnsupportedCallError(
                f"A static cache of {self.storage.batch_size} rows cannot become one of {len(indices)}; "
                'use a dynamic one ("static": false).'
            )
        super().batch_select_indices(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Raise UnsupportedCallError unless `repeats` is 1: a static cache keeps its batch size."""
        if repeats != 1 and self.is_initialized:
            raise UnsupportedCallError(
                'A static cache cannot change its batch size; use a dynamic one ("static": false).'
            )
