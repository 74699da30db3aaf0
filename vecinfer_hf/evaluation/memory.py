# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory a cache holds, counted the same way for every kind of cache. Owns no estimate, only what exists."""

from __future__ import annotations

from transformers import Cache

from .tensors import tensors_in


def cache_nbytes(cache: Cache) -> int:
    """Return the bytes of all tensor storage a cache keeps alive.

    Every tensor reachable from the cache is followed to its storage, and each storage is counted once, whole: spare
    room of preallocated buffers, codebooks, lengths and windows included. On an accelerator only what lies there
    counts, not the codebook's copy in host memory.

    Args:
        cache: any transformers cache, stock or VecInfer, that has seen tokens.

    Returns:
        Bytes allocated; 0 for an empty cache.
    """
    devices = {layer.keys.device for layer in cache.layers if getattr(layer, "keys", None) is not None}
    storages = {}
    for tensor in tensors_in(cache):
        if tensor.device in devices:
            storage = tensor.untyped_storage()
            storages[tensor.device, storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
