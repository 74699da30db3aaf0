# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Put keys and values into caches without a model: what attention does, without the attention."""

import torch
from transformers import Cache

from vecinfer_hf.cache.layer import VecInferLayer


def put(layer: VecInferLayer, keys: torch.Tensor, values: torch.Tensor, *more) -> None:
    """Store `[B, Hkv, T, D]` in one layer; `more` are further arguments of `VecInferLayer.store`."""
    layer.update(keys, values)
    layer.store(keys, values, *more)


def put_into(cache: Cache, keys: torch.Tensor, values: torch.Tensor, layer_idx: int) -> None:
    """Store `[B, Hkv, T, D]` in one layer of any cache."""
    cache.update(keys, values, layer_idx)
    layer = cache.layers[layer_idx]
    if isinstance(layer, VecInferLayer):
        layer.store(keys, values)
