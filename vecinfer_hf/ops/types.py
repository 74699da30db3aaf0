# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The tensors the operators work on: one layer's codebook and one layer's buffers, as NamedTuples.

NamedTuples of tensors, not classes: custom operators and torch.compile take them apart for free.
`quantization` owns the formats, `codebook` the files, `cache` the buffers' life.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


MAX_DECODE_QUERIES = 16
"""Tokens that `append` and `decode_attention` of every backend take at once; longer queries go through blocks."""


class LayerCodebook(NamedTuple):
    """All tensors that quantize and read one layer.

    `Hkv` key/value heads, head size `Dk` of keys and `Dv` of values, code format `(d, b, n)`. A diagonal transform is
    followed (for the output: preceded) by the block Hadamard matrix H; a full one is not.

    Args:
        key_mean: float32 `[Hkv, Dk]`, subtracted from keys before the transform, or None.
        key_transform: float32 `[Hkv, Dk]` (diagonal, `1 / smooth_scale`) or `[Hkv, Dk, Dk]` (full matrix).
        query_transform: float32 of the same rank: `smooth_scale`, or the inverse transpose of the full matrix.
        key_centroids: int8 `[Hkv, n, 2**b, d]`.
        key_centroid_scale: float32 `[Hkv]`.
        value_mean: float32 `[Hkv, Dv]` or None.
        value_transform: float32 `[Hkv, Dv]`, `[Hkv, Dv, Dv]`, or None for values stored as they are.
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
        """Return the same codebook with every tensor on `device`, contiguous, as compiled operators read it."""
        return LayerCodebook(*(None if tensor is None else tensor.to(device).contiguous() for tensor in self))

    @property
    def num_heads(self) -> int:
        """Key/value heads."""
        return len(self.key_centroids)

    def heads(self, part: slice) -> LayerCodebook:
        """Return the codebook of some of the heads; its tensors are views of these."""
        return LayerCodebook(*(None if tensor is None else tensor[part] for tensor in self))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors of this layer."""
        return sum(tensor.nbytes for tensor in self if tensor is not None)


class CacheBuffers(NamedTuple):
    """The storage of one layer. Rows are compact: padding is never stored, token `i` is a row's own i-th stored one.

    That is its i-th valid token, except among the tokens that sinks are chosen from (sinks.py): those may be stored in
    another order, another one for each head, because no query that reads codes is earlier than any of them.

    With `S` sinks, a ring of `C` slots, and `n = i - S` for the tokens after the sinks:

        token i   0 .. S - 1      n < quantized_lengths[b]     the last tokens, at most C
        lives in  sinks, slot i   codes, slot n                ring, slot n % C

    A full ring quantizes its oldest token for each new one: `C` is the residual length. A ring may also start smaller
    and grow as long as no token has left it: every `n` is below `C` then, and no token changes its slot. Compiled
    `append` and `decode_attention` take no more tokens at once than the ring has slots.

    Args:
        codes: uint8 `[B, Hkv, num_tiles, bytes_per_tile]` in packing.py's order. Slot `n` is token `n % 32` of tile
            `n // 32`.
        sink_keys: model dtype `[B, Hkv, S, Dk]`, exact for ever.
        sink_values: model dtype `[B, Hkv, S, Dv]`.
        ring_keys: model dtype `[B, Hkv, C, Dk]`.
        ring_values: model dtype `[B, Hkv, C, Dv]`.
        lengths: int32 `[B]`, valid tokens of each row.
        quantized_lengths: int32 `[B]`, quantized tokens of each row.
    """

    codes: torch.Tensor
    sink_keys: torch.Tensor
    sink_values: torch.Tensor
    ring_keys: torch.Tensor
    ring_values: torch.Tensor
    lengths: torch.Tensor
    quantized_lengths: torch.Tensor

    @property
    def block_table(self) -> None:
        """None: the codes are contiguous."""
        return None

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(tensor.nbytes for tensor in self)


class PagedBuffers(NamedTuple):
    """The storage of one layer whose codes lie in pages; everything else is as in `CacheBuffers`.

    Args:
        codes: uint8 `[num_pages, Hkv, tiles_per_page, bytes_per_tile]`; rows may share pages.
        sink_keys: model dtype `[B, Hkv, S, Dk]`.
        sink_values: model dtype `[B, Hkv, S, Dv]`.
        ring_keys: model dtype `[B, Hkv, C, Dk]`.
        ring_values: model dtype `[B, Hkv, C, Dv]`.
        lengths: int32 `[B]`.
        quantized_lengths: int32 `[B]`.
        block_table: int32 `[B, max_pages]`, the pages of each row in their order. Entries behind a row's last page may
            hold any number.
    """

    codes: torch.Tensor
    sink_keys: torch.Tensor
    sink_values: torch.Tensor
    ring_keys: torch.Tensor
    ring_values: torch.Tensor
    lengths: torch.Tensor
    quantized_lengths: torch.Tensor
    block_table: torch.Tensor


Buffers = CacheBuffers | PagedBuffers
"""What every operator takes."""
