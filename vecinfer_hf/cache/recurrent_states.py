# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""RecurrentStates: what models call on a cache for their recurrent and convolution states.

Owns the checks before a state is read or changed; the states are transformers' own.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache

from ..errors import UnsupportedCallError


_ASKS_FIRST = not hasattr(Cache, "get_conv_state")
"""Before transformers 5.24 each layer asks once whether it has a state, and takes it from its cache layer."""


class RecurrentStates:
    """The calls of models with states, in front of transformers' Cache; for a cache with `forward_pass`."""

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """Return the convolution state of one layer; see transformers' Cache."""
        self._reach_state(layer_idx, f"read convolution {state_idx}", once=True)
        return super().get_conv_state(layer_idx, state_idx)

    def has_previous_state(self, layer_idx: int | None = None, *args, **kwargs) -> bool:
        """Return whether one layer has a state; see transformers' Cache."""
        if layer_idx is not None:
            self._reach_state(layer_idx, "read", once=_ASKS_FIRST)
        return super().has_previous_state(layer_idx, *args, **kwargs)

    def update_conv_state(self, conv_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **kwargs):
        """Take new convolution states `[B, channels, T]` of one layer; see transformers' Cache."""
        self._reach_state(layer_idx, f"convolution {state_idx}", conv_states)
        return super().update_conv_state(conv_states, layer_idx, state_idx, **kwargs)

    def update_recurrent_state(self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **kwargs):
        """Take the new recurrent states `[B, ...]` of one layer; see transformers' Cache."""
        self._reach_state(layer_idx, f"recurrent {state_idx}", recurrent_states)
        return super().update_recurrent_state(recurrent_states, layer_idx, state_idx, **kwargs)

    def _reach_state(self, layer_idx: int, kind: str, states: torch.Tensor | None = None, once: bool = False) -> None:
        """Check before a layer's state is read, or changed to `[B, ...]`."""
        if torch.compiler.is_compiling() or layer_idx not in self.forward_pass.states.recurrent:
            return
        if states is not None and states.shape[0] != (self._batch_size() or states.shape[0]):
            self.forward_pass.states.abandon(reads_change=False)
            self._check_rows(states)
        self.forward_pass.states.reaches(layer_idx, kind, once=once)

    def _check_rows(self, states: torch.Tensor) -> None:
        """Raise UnsupportedCallError unless `[B, ...]` has as many rows as the cache, if that has any."""
        rows = self._batch_size()
        if rows is not None and rows != states.shape[0]:
            raise UnsupportedCallError(
                f"The cache holds {rows} rows and the call has {states.shape[0]}. Repeat or select the "
                "cache's rows first (batch_repeat_interleave, batch_select_indices), or use a new cache."
            )
