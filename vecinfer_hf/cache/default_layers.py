# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What a cache of codes does with the layers of transformers that stand beside its own.

Owns the operations on rows that transformers lacks for recurrent states, and the return to before a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers.cache_utils import (
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)

from ..model_info.layers import DummyLayer


def rows_of(layer: CacheLayerMixin | LinearAttentionCacheLayerMixin | DummyLayer) -> int | None:
    """Return the number of rows that a layer of transformers holds, or None if it is empty."""
    tensors = [layer.keys] if getattr(layer, "is_initialized", False) else []
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        tensors += [*layer.conv_states.values(), *layer.recurrent_states.values()]
    # An initialized layer without tokens has empty tensors of one dimension.
    return next((tensor.shape[0] for tensor in tensors if tensor is not None and tensor.dim() > 1), None)


def select_rows(layer: CacheLayerMixin | LinearAttentionCacheLayerMixin | DummyLayer, rows: torch.Tensor) -> None:
    """Keep the rows `rows` int64 `[n]` of a layer of transformers, in that order."""
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        LinearAttentionCacheLayerMixin.reorder_cache(layer, rows)
    if isinstance(layer, (CacheLayerMixin, DummyLayer)):
        layer.batch_select_indices(rows)


def empty_growing(layer: CacheLayerMixin | LinearAttentionCacheLayerMixin | DummyLayer) -> None:
    """Make a growing layer of transformers that was reset hold no columns; before 5.24 it holds as many zeros."""
    if isinstance(layer, DynamicLayer) and layer.is_initialized and layer.keys.numel():
        layer.lazy_initialization(layer.keys, layer.values)


def held_tensors(holder: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in a layer of transformers: its attributes, and what those hold in dictionaries."""
    values = (
        holder.values() if isinstance(holder, dict) else holder if isinstance(holder, tuple) else vars(holder).values()
    )
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (dict, tuple)):
            yield from held_tensors(value)


def before_storing(layer: CacheLayerMixin, tokens: int) -> Callable[[], None]:
    """Return the function that puts `layer` back as it was before it stored `tokens` more tokens.

    A growing sliding layer loses its oldest tokens, so a copy of those is enough; cross-attention layers lose none. A
    static layer is written in place and copied whole; only eager passes come here, not decode steps.
    """
    state = {name: value for name, value in vars(layer).items() if name not in ("keys", "values")}
    state = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in state.items()}
    # An initialized layer without tokens has empty tensors of one dimension.
    held = layer.keys.shape[2] if layer.keys.dim() == 4 else 0
    grows, lost = isinstance(layer, DynamicLayer), held
    if isinstance(layer, DynamicSlidingWindowLayer):
        lost = 0 if layer.record_past else min(max(held + tokens - layer.sliding_window + 1, 0), held)
    elif grows:
        lost = 0
    with torch.no_grad():
        copies = [states[:, :, :lost].clone() if held else states for states in (layer.keys, layer.values)]

    def restore() -> None:
        for name, states in zip(("keys", "values"), copies, strict=True):
            present = getattr(layer, name)
            if not grows:
                present.copy_(states)  # compiled steps know the tensor by its address
            else:
                setattr(layer, name, torch.cat([states, present[:, :, : held - lost]], dim=2) if held else states)
        for name, value in state.items():
            present = getattr(layer, name, None)
            if isinstance(value, torch.Tensor) and isinstance(present, torch.Tensor):
                present.copy_(value)
            else:
                setattr(layer, name, value)

    return restore
