# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""CacheSizes: the bytes and bits of a cache, counted on what is allocated."""

from __future__ import annotations

import torch

from ..codebook.sizes import bytes_per_token
from .default_layers import held_tensors
from .layer import VecInferLayer


class CacheSizes:
    """Sizes of a cache with `layers` and `quantized_layers`."""

    @property
    def nbytes(self) -> int:
        """Bytes allocated by the whole cache: codes, windows, sinks, codebooks, and the stock layers' tensors."""
        total = 0
        for layer in self.layers:
            if isinstance(layer, VecInferLayer):
                total += layer.nbytes
            else:
                total += sum(tensor.untyped_storage().nbytes() for tensor in held_tensors(layer))
        return total

    @property
    def bits_per_element(self) -> float:
        """Mean bits per key or value element of coded tokens, padding bytes of the tile format included."""
        bits = elements = 0
        for layer in self.quantized_layers:
            shape = layer.codebook.head_shape(layer.layer_idx)
            bits += 8 * bytes_per_token(shape, layer.storage.formats)
            elements += shape.num_key_value_heads * (shape.key_head_dim + shape.value_head_dim)
        return bits / elements

    def stock_nbytes(self, dtype: torch.dtype | None = None) -> int:
        """Bytes that the stock cache would take for the same columns.

        Args:
            dtype: count in this dtype; default the cache's own.
        """
        total = 0
        for layer in self.layers:
            if isinstance(layer, VecInferLayer) and layer.is_initialized:
                heads, *sizes = layer.codebook.head_shape(layer.layer_idx)
                elements = layer.storage.batch_size * heads * sum(sizes) * int(layer.cumulative_length)
                total += elements * (dtype or layer.dtype).itemsize + getattr(layer, "state_nbytes", 0)
            elif not isinstance(layer, VecInferLayer):
                total += sum(tensor.nbytes for tensor in held_tensors(layer))
        return total

    @property
    def compression_ratio(self) -> float:
        """How many times larger the stock cache of the same dtype would be, everything counted."""
        return self.stock_nbytes() / self.nbytes
