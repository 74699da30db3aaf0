# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The tensors the operators work on: one layer's codebook and one layer's buffers, as NamedTuples.

NamedTuples of tensors, not classes: custom operators and torch.compile take them apart for free.
This file owns no behaviour; config.py owns the formats, codebook.py the files, cache.py the buffers' life.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class LayerCodebook(NamedTuple):
    """All tensors that quantize and read one layer. `Hkv` key/value heads, head size `D`, code format `(d, b, n)`.

    A diagonal transform is followed (for the output: preceded) by the block Hadamard matrix H; a full one is not.

    Args:
        key_mean: float32 `[Hkv, D]`, subtracted from keys before the transform, or None.
        key_transform: float32 `[Hkv, D]` (diagonal, `1 / smooth_scale`) or `[Hkv, D, D]` (full matrix).
        query_transform: float32 of the same rank: `smooth_scale`, or the inverse transpose of the full matrix.
        key_centroids: int8 `[Hkv, n, 2**b, d]`.
        key_centroid_scale: float32 `[Hkv]`.
        value_mean: float32 `[Hkv, D]` or None.
        value_transform: float32 `[Hkv, D]`, `[Hkv, D, D]`, or None for values stored as they are.
        output_transform: float32 of the same rank as `value_transform`: its inverse, applied to the attention output.
        value_centroids: int8 `[Hkv, n, 2**b, d]`.
        value_centroid_scale: float32 `[Hkv]`.
    """

    key_mean: torch.Tensor | None
    key_transform: torch.Tensor
    query_transform: torch.Tensor
    key_centroids: torch.Tensor
    key_centroid_scale: torch.Tensor
    value_mean: torch.Tensor | None
    value_transform: torch.Tensor | None
    output_transform: torch.Tensor | None
    value_centroids: torch.Tensor
    value_centroid_scale: torch.Tensor

    def to(self, device: torch.device | str) -> LayerCodebook:
        """Return the same codebook with every tensor on `device`."""
        return LayerCodebook(*(None if tensor is None else tensor.to(device) for tensor in self))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors of this layer."""
        return sum(tensor.nbytes for tensor in self if tensor is not None)


class CacheBuffers(NamedTuple):
    """The storage of one layer. Rows are compact: padding is never stored, token `i` is a row's own i-th stored one.

    That is its i-th real token, except among the tokens that sinks are chosen from (sinks.py): those may be stored in
    another order, another one for each head, because no query that reads codes is earlier than any of them.

    With `S` sinks, window `R = residual_length`, and `n = i - S` for the tokens after the sinks:

    Args:
        codes: uint8 `[B, Hkv, num_tiles, bytes_per_tile]` in packing.py's order; holds `n < quantized_lengths[b]`.
        sink_keys: model dtype `[B, Hkv, S, D]`; token `i < S` lives at `i`, exact for ever.
        sink_values: model dtype `[B, Hkv, S, D]`.
        window_keys: model dtype `[B, Hkv, C, D]`, a ring: `quantized_lengths[b] <= n < lengths[b] - S` lives at
            `n % R`. `C <= R`, and smaller only while no `n >= C` has been seen.
        window_values: model dtype `[B, Hkv, C, D]`.
        lengths: int32 `[B]`, real tokens of each row.
        quantized_lengths: int32 `[B]`, coded tokens of each row.
    """

    codes: torch.Tensor
    sink_keys: torch.Tensor
    sink_values: torch.Tensor
    window_keys: torch.Tensor
    window_values: torch.Tensor
    lengths: torch.Tensor
    quantized_lengths: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(tensor.nbytes for tensor in self)
