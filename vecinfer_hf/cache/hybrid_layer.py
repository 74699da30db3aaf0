# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Layers with attention and a recurrent state in one (Falcon-H1, Zamba2): codes beside transformers' own state.

Owns the joining of the two halves and nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import LinearAttentionCacheLayerMixin, LinearAttentionLayer

from .default_layers import held_tensors
from .layer import VecInferLayer
from .static_layer import VecInferStaticLayer


class _StateBeside:
    """What joins a layer of codes (first in the order of classes) with a `LinearAttentionLayer` (second).

    Args:
        arguments, options: those of the layer of codes.
        number_of_states: states of the layer, as transformers counts them.
    """

    is_croppable = LinearAttentionCacheLayerMixin.is_croppable

    def __init__(self, *arguments: Any, number_of_states: int = 1, **options: Any):
        super().__init__(*arguments, **options)
        LinearAttentionLayer.__init__(self, number_of_states)

    def lazy_initialization(self, *states: torch.Tensor, **options: Any) -> None:
        """Allocate buffers for keys and values, given by position, or for a state, given by keyword."""
        if states:
            super().lazy_initialization(*states)
        else:
            LinearAttentionLayer.lazy_initialization(self, **options)

    @property
    def state_nbytes(self) -> int:
        """Bytes of the recurrent and convolution states."""
        return sum(tensor.nbytes for tensor in held_tensors((self.conv_states, self.recurrent_states)))

    @property
    def nbytes(self) -> int:
        """Bytes of the layer of codes and of the states."""
        return super().nbytes + self.state_nbytes

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        LinearAttentionLayer.reset(self)

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last columns; only states that were recorded can go back (`check_layer_crop`)."""
        if tokens_to_remove:
            LinearAttentionLayer.crop(self, tokens_to_remove)
        super().crop(tokens_to_remove)

    def _select(self, rows: list[int] | None, indices: torch.Tensor) -> None:
        super()._select(rows, indices)
        LinearAttentionLayer.reorder_cache(self, indices)

    def offload(self) -> None:
        """Move everything to the CPU."""
        super().offload()
        LinearAttentionLayer.offload(self)

    def prefetch(self) -> None:
        """Move everything back to the device it was made on."""
        super().prefetch()
        LinearAttentionLayer.prefetch(self)


class VecInferHybridLayer(_StateBeside, VecInferLayer, LinearAttentionLayer):
    """A `VecInferLayer` beside a recurrent state."""


class VecInferStaticHybridLayer(_StateBeside, VecInferStaticLayer, LinearAttentionLayer):
    """A `VecInferStaticLayer` beside a recurrent state."""
