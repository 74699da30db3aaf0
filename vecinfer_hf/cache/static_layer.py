# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""VecInferStaticLayer: the layer's storage sized once, every length on the device, for compiled decode steps.

Owns what differs from layer.py: nothing grows, nothing moves, and a decode step never looks at the host.
"""

from __future__ import annotations

import torch

from ..attention.masks import NO_OFFSET
from ..ops.custom import append_op, decode_attention_op
from ..quantization.packing import TILE, bytes_per_tile
from .handle import CacheHandle, Lengths
from .layer import VecInferLayer


class VecInferStaticLayer(VecInferLayer):
    """A `VecInferLayer` for at most `max_cache_len` columns, with which `generate` compiles its decode step.

    Args:
        arguments: those of `VecInferLayer`.
        max_cache_len: columns it can hold.
    """

    is_compileable = True

    def __init__(self, *arguments, max_cache_len: int):
        self.max_cache_len = max_cache_len
        self._before: Lengths | None = None
        """What was stored before the forward pass under way; None when none is."""
        super().__init__(*arguments)
        # A tensor from the start: an int would be compiled in, and every step would compile again.
        self.cumulative_length = torch.tensor(0)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate all buffers for the batch, heads, dtype and device of `key_states` `[B, Hkv, T or 0, D]`."""
        super().lazy_initialization(key_states, value_states)
        batch, heads, _, head_dim = key_states.shape
        coded = max(self.max_cache_len - self.sink_length - self.residual_length, 0)
        tile_bytes = bytes_per_tile(self.key_format, self.value_format, head_dim)
        window = min(self.residual_length, max(self.max_cache_len - self.sink_length, 0))
        self._set_buffers(
            self.buffers._replace(
                codes=torch.zeros(batch, heads, -(-coded // TILE), tile_bytes, dtype=torch.uint8, device=self.device),
                window_keys=key_states.new_zeros(batch, heads, window, head_dim),
                window_values=key_states.new_zeros(batch, heads, window, head_dim),
            )
        )
        self.batch_size = batch
        self.cumulative_length = self.cumulative_length.to(self.device)
        if not torch.compiler.is_compiling():
            for tensor in (*self.buffers, self.cumulative_length, *self.layer_codebook):
                # A CUDA graph updates a tensor of fixed address in place, and copies any other into itself every step.
                if tensor is not None:
                    torch._dynamo.mark_static_address(tensor)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Take new keys and values; see `VecInferLayer.update`."""
        if not torch.compiler.is_compiling():
            before = self._look(key_states.shape[0])
            seen = before.columns + key_states.shape[2]
            if seen > self.max_cache_len:
                raise ValueError(
                    f"{seen} tokens do not fit the static cache of max_cache_len {self.max_cache_len}; pass a larger "
                    'max_cache_len in cache_config, or "static": false for a cache that grows.'
                )
            self._before = before
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.shared.handles_wanted:
            self.cumulative_length.add_(key_states.shape[2])
            return CacheHandle(self, key_states), CacheHandle(self, value_states)
        return super().update(key_states, value_states)

    def _look(self, batch: int) -> Lengths:
        """Return what is stored before the pass that begins or goes on with this call.

        Only the first layer looks at the device, which has nothing else to do yet; each layer behind it takes that, if
        it is the next to come. After any other order (layers that were compiled, one alone, a pass that ended in the
        midst) layers look for themselves, until a reset.
        """
        shared = self.shared
        taken, shared.lengths = shared.lengths, None
        if self.layer_idx == shared.layers[0]:
            shared.uneven |= taken is not None
            found = self._read_lengths(batch)
            if len(shared.layers) > 1 and not shared.uneven:
                shared.lengths = found._replace(left=list(shared.layers[1:]))
            return found
        if taken is None or taken.left[0] != self.layer_idx:
            shared.uneven = True
            return self._read_lengths(batch)
        if len(taken.left) > 1:
            shared.lengths = taken._replace(left=taken.left[1:])
        return taken

    def _read_lengths(self, batch: int) -> Lengths:
        if not self.is_initialized:
            return Lengths(0, [0] * batch, [0] * batch, [])
        lengths, coded = self.buffers.lengths, self.buffers.quantized_lengths
        columns, *rows = torch.cat((self.cumulative_length.view(1), lengths, coded)).tolist()
        return Lengths(columns, rows[: len(lengths)], rows[len(lengths) :], [])

    def past_columns(self, tokens: int) -> int:
        """Return the columns before the `tokens` new ones; see `VecInferLayer.past_columns`."""
        return int(self.cumulative_length) - tokens if self._before is None else self._before.columns

    def forget_update(self, tokens: int) -> None:
        """Take back an `update` of `tokens` tokens that are not to be stored."""
        super().forget_update(tokens)
        self._before = self.shared.lengths = None

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last `|tokens_to_remove|` columns; see `VecInferLayer.crop`."""
        self._before = None
        super().crop(tokens_to_remove)

    def store(self, *args, **kwargs) -> None:
        """Store new tokens; see `VecInferLayer.store`."""
        super().store(*args, **kwargs)
        self._before = None

    def append_compiled(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Append a few real tokens `[B, Hkv, T, D]` without looking at the host."""
        append_op(
            key_states,
            value_states,
            *self.buffers,
            *self.layer_codebook,
            self.residual_length,
            self.ops_module,
        )

    def decode_attention_compiled(
        self, query: torch.Tensor, softmax_scale: float, softcap: float, attention_sinks: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the attention output `[B, Hq, T, D]` of the last `T` tokens without looking at the host."""
        return decode_attention_op(
            query,
            *self.buffers,
            *self.layer_codebook,
            self.residual_length,
            softmax_scale,
            softcap,
            attention_sinks,
            self.ops_module,
        )

    def host_lengths(self) -> tuple[list[int], list[int]]:
        """Return every row's real and coded tokens, read from the device unless that is done already."""
        if self._before is not None:
            return list(self._before.real), list(self._before.coded)
        return self.buffers.lengths.tolist(), self.buffers.quantized_lengths.tolist()

    def get_seq_length(self) -> int | torch.Tensor:
        """Return the columns seen, padding included: 0 before the first token, then a 0-d tensor."""
        return self.cumulative_length if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the columns of a mask, `max_cache_len`, and its offset, 0 (see `masks.NO_OFFSET`)."""
        return self.max_cache_len, NO_OFFSET

    def get_max_length(self) -> int:
        """Return `max_cache_len`."""
        return self.max_cache_len

    def reset(self) -> None:
        """Forget everything; the buffers stay where they are."""
        self._before = self.shared.lengths = None
        self.shared.uneven = False
        self.cumulative_length.zero_()
        self.sink_order, self.ordered = None, []
        if self.is_initialized:
            self.buffers.lengths.zero_()
            self.buffers.quantized_lengths.zero_()

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices`, in that order; as many as there are, since nothing may move."""
        if not self.is_initialized:
            return
        if len(indices) != self.batch_size or indices.dtype == torch.bool:
            raise ValueError(
                f"A static cache of {self.batch_size} rows cannot become one of {len(indices)}; "
                'use a dynamic one ("static": false).'
            )
        indices = indices.to(self.device)
        for tensor in self.buffers:
            tensor.copy_(tensor.index_select(0, indices))
        if self.sink_order is not None:
            self.sink_order = self.sink_order.index_select(0, indices)
            self.ordered = [self.ordered[row] for row in indices.tolist()]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Raise ValueError unless `repeats` is 1: a static cache keeps its batch size."""
        if repeats != 1 and self.is_initialized:
            raise ValueError('A static cache cannot change its batch size; use a dynamic one ("static": false).')

    def _reserve(self, counts: list[int], lengths: list[int], quantized: list[int]) -> None:
        """Everything is reserved already."""
