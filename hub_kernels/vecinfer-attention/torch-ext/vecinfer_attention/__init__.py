# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
# Hub kernels are to run on Python 3.9.
# ruff: noqa: UP006, UP035, UP045
"""Operators on a vector-quantized KV cache (https://arxiv.org/abs/2510.06175), for CUDA devices and for CPUs.

Thin wrappers of the compiled operators. Shapes below use `B` rows, `Hkv` key/value heads, `Hq` query heads, `Dk` and
`Dv` the head sizes of keys and values and, for a code format, `n` additive codes of `b` bits over `d` elements. A
diagonal transform `[Hkv, D]` goes with the orthonormal block Hadamard matrix, a full one `[Hkv, D, D]` stands alone.
Optional tensors may be None.

The CUDA kernels need `Dv` equal to `Dk`; anything else is refused by name before a launch. The CPU's take head sizes
that are multiples of 8 up to 512, `Dv` unlike `Dk`, any group, and float32.
"""

from typing import Optional, Tuple

import torch

from . import _fake  # noqa: F401  (registers the fake implementations)
from ._ops import ops


__all__ = ["append", "decode_attention", "dequantize", "quantize"]


def quantize(
    key_states: torch.Tensor,
    value_states: torch.Tensor,
    codes: torch.Tensor,
    block_table: Optional[torch.Tensor],
    starts: torch.Tensor,
    counts: torch.Tensor,
    first: torch.Tensor,
    key_mean: Optional[torch.Tensor],
    key_transform: torch.Tensor,
    key_centroids: torch.Tensor,
    key_centroid_scale: torch.Tensor,
    value_mean: Optional[torch.Tensor],
    value_transform: Optional[torch.Tensor],
    value_centroids: torch.Tensor,
    value_centroid_scale: torch.Tensor,
) -> None:
    """Write tokens as codes: of row `b`, tokens `first[b] .. first[b] + counts[b]` go to code slots from `starts[b]`.

    The nearest centroid is exact for inputs rounded to 1/8 (`d` = 2), 1/4 (4) or 1/2 (8) of a centroid's int8 unit.

    Args:
        key_states: bf16 or fp16 `[B, Hkv, T, Dk]`, last dimension contiguous.
        value_states: `[B, Hkv, T, Dv]`, the same dtype.
        codes: uint8 `[B, Hkv, num_tiles, bytes_per_tile]`, last two dimensions contiguous; with a block table
            `[num_pages, Hkv, tiles_per_page, bytes_per_tile]`. Changed in place.
        block_table: int32 `[B, max_pages]`, the pages of each row in order, or None; at most 65,536 tiles for a row.
            Entries that the lengths do not need may hold anything; the others must name pages, which is not checked.
        starts: int32 `[B]`, first code slot of a row.
        counts: int32 `[B]`, tokens of a row.
        first: int32 `[B]`, first token of a row.
        key_mean: float32 `[Hkv, Dk]` or None.
        key_transform: float32 `[Hkv, Dk]` or `[Hkv, Dk, Dk]`.
        key_centroids: int8 `[Hkv, n, 2**b, d]`.
        key_centroid_scale: float32 `[Hkv]`.
        value_mean: float32 `[Hkv, Dv]` or None.
        value_transform: float32 `[Hkv, Dv]`, `[Hkv, Dv, Dv]` or None (values stored as they are).
        value_centroids: int8 `[Hkv, n, 2**b, d]`.
        value_centroid_scale: float32 `[Hkv]`.

    Raises:
        RuntimeError: for a device, dtype or shape that is not supported, before anything is launched.
    """
    ops.quantize(
        key_states,
        value_states,
        codes,
        block_table,
        starts,
        counts,
        first,
        key_mean,
        key_transform,
        key_centroids,
        key_centroid_scale,
        value_mean,
        value_transform,
        value_centroids,
        value_centroid_scale,
    )


def append(
    key_states: torch.Tensor,
    value_states: torch.Tensor,
    codes: torch.Tensor,
    block_table: Optional[torch.Tensor],
    sink_keys: torch.Tensor,
    sink_values: torch.Tensor,
    ring_keys: torch.Tensor,
    ring_values: torch.Tensor,
    lengths: torch.Tensor,
    quantized_lengths: torch.Tensor,
    key_mean: Optional[torch.Tensor],
    key_transform: torch.Tensor,
    key_centroids: torch.Tensor,
    key_centroid_scale: torch.Tensor,
    value_mean: Optional[torch.Tensor],
    value_transform: Optional[torch.Tensor],
    value_centroids: torch.Tensor,
    value_centroid_scale: torch.Tensor,
) -> None:
    """Append `T` tokens to every row: sinks first, then the ring; a token that leaves the ring becomes codes.

    Lengths live in device memory and are advanced there: no host synchronization, safe inside a CUDA graph.

    Args:
        key_states: bf16 or fp16 `[B, Hkv, T, Dk]`, `T` at most 16 and at most `C`.
        value_states: `[B, Hkv, T, Dv]`, the same dtype.
        codes: see `quantize`; changed in place.
        block_table: see `quantize`.
        sink_keys: `[B, Hkv, S, Dk]`, dtype of the states; changed in place.
        sink_values: `[B, Hkv, S, Dv]`; changed in place.
        ring_keys: `[B, Hkv, C, Dk]`; changed in place. With `S` sinks, token `i` of a row lives in slot `(i - S) % C`,
            and a full ring gives its oldest token away for each new one. As long as no token has left a ring, a longer
            copy may take its place.
        ring_values: `[B, Hkv, C, Dv]`; changed in place.
        lengths: int32 `[B]`, tokens stored; changed in place.
        quantized_lengths: int32 `[B]`, tokens stored as codes; changed in place.
        key_mean: see `quantize`, as the other codebook tensors.
        key_transform: see `quantize`.
        key_centroids: see `quantize`.
        key_centroid_scale: see `quantize`.
        value_mean: see `quantize`.
        value_transform: see `quantize`.
        value_centroids: see `quantize`.
        value_centroid_scale: see `quantize`.

    Raises:
        RuntimeError: for a device, dtype or shape that is not supported, before anything is launched.
    """
    ops.append(
        key_states,
        value_states,
        codes,
        block_table,
        sink_keys,
        sink_values,
        ring_keys,
        ring_values,
        lengths,
        quantized_lengths,
        key_mean,
        key_transform,
        key_centroids,
        key_centroid_scale,
        value_mean,
        value_transform,
        value_centroids,
        value_centroid_scale,
    )


def decode_attention(
    query: torch.Tensor,
    codes: torch.Tensor,
    block_table: Optional[torch.Tensor],
    sink_keys: torch.Tensor,
    sink_values: torch.Tensor,
    ring_keys: torch.Tensor,
    ring_values: torch.Tensor,
    lengths: torch.Tensor,
    quantized_lengths: torch.Tensor,
    key_mean: Optional[torch.Tensor],
    query_transform: torch.Tensor,
    key_centroids: torch.Tensor,
    key_centroid_scale: torch.Tensor,
    value_mean: Optional[torch.Tensor],
    output_transform: Optional[torch.Tensor],
    value_centroids: torch.Tensor,
    value_centroid_scale: torch.Tensor,
    softmax_scale: float,
    softcap: float = 0.0,
    sink_logits: Optional[torch.Tensor] = None,
    num_splits: int = 0,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return the attention of each row's last `Tq` tokens, already appended, over everything stored up to themselves.

    Equation 7 of https://arxiv.org/abs/2510.06175, with exact sinks and ring. Transformed queries are rounded to
    2^-16 of their largest element. Softmax weights over codes are rounded in one of two ways. Up to 4 queries for each
    key/value head (`Hq / Hkv * Tq`; 8 before compute capability 9.0): to multiples of 2^-13 of the largest one that a
    warp has seen, by a dither that keeps sums in the mean; no weight vanishes systematically, and one weight can be
    off by 2^-13 of the largest. More queries: to fp16, 2^-12 of each weight down to 2^-20 of the largest one that a
    warp has seen. `Tq` may not exceed `C`, nor 1 without a ring.

    Args:
        query: bf16 or fp16 `[B, Hq, Tq, Dk]`, `Tq` at most 16; query head `i` reads key/value head `i // (Hq / Hkv)`.
        codes: see `quantize`.
        block_table: see `quantize`.
        sink_keys: `[B, Hkv, S, Dk]`.
        sink_values: `[B, Hkv, S, Dv]`.
        ring_keys: `[B, Hkv, C, Dk]`, see `append`.
        ring_values: `[B, Hkv, C, Dv]`.
        lengths: int32 `[B]`, tokens stored.
        quantized_lengths: int32 `[B]`, tokens stored as codes.
        key_mean: float32 `[Hkv, Dk]` or None.
        query_transform: float32 `[Hkv, Dk]` or `[Hkv, Dk, Dk]`.
        key_centroids: int8 `[Hkv, n, 2**b, d]`.
        key_centroid_scale: float32 `[Hkv]`.
        value_mean: float32 `[Hkv, Dv]` or None.
        output_transform: inverse of the value transform, float32 `[Hkv, Dv]`, `[Hkv, Dv, Dv]` or None.
        value_centroids: int8 `[Hkv, n, 2**b, d]`.
        value_centroid_scale: float32 `[Hkv]`.
        softmax_scale: factor on `q . k`.
        softcap: scores become `softcap * tanh(score / softcap)`; 0 for none.
        sink_logits: float `[Hq]`, one extra logit per head without a value, or None.
        num_splits: thread blocks a row's codes are split over; 0 chooses. Deterministic for a fixed number.

    Returns:
        `[B, Hq, Tq, Dv]` in the query's dtype and the natural log-sum-exp, float32 `[B, Hq, Tq]`.

    Raises:
        RuntimeError: for a device, dtype or shape that is not supported, before anything is launched.
    """
    return ops.decode_attention(
        query,
        codes,
        block_table,
        sink_keys,
        sink_values,
        ring_keys,
        ring_values,
        lengths,
        quantized_lengths,
        key_mean,
        query_transform,
        key_centroids,
        key_centroid_scale,
        value_mean,
        output_transform,
        value_centroids,
        value_centroid_scale,
        softmax_scale,
        softcap,
        sink_logits,
        num_splits,
    )


def dequantize(
    codes: torch.Tensor,
    block_table: Optional[torch.Tensor],
    key_mean: Optional[torch.Tensor],
    query_transform: torch.Tensor,
    key_centroids: torch.Tensor,
    key_centroid_scale: torch.Tensor,
    value_mean: Optional[torch.Tensor],
    output_transform: Optional[torch.Tensor],
    value_centroids: torch.Tensor,
    value_centroid_scale: torch.Tensor,
    value_head_dim: int,
    start: int,
    length: int,
    dtype: torch.dtype,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return the keys and values that code slots `start .. start + length` stand for, in the model's own space.

    Args:
        codes: see `quantize`.
        block_table: see `quantize`.
        key_mean: float32 `[Hkv, Dk]` or None.
        query_transform: float32 `[Hkv, Dk]` or `[Hkv, Dk, Dk]`; its transpose inverts the key transform.
        key_centroids: int8 `[Hkv, n, 2**b, d]`.
        key_centroid_scale: float32 `[Hkv]`.
        value_mean: float32 `[Hkv, Dv]` or None.
        output_transform: inverse of the value transform, float32 `[Hkv, Dv]`, `[Hkv, Dv, Dv]` or None.
        value_centroids: int8 `[Hkv, n, 2**b, d]`.
        value_centroid_scale: float32 `[Hkv]`.
        value_head_dim: `Dv`, which tiles and centroids alone do not tell.
        start: first code slot.
        length: code slots.
        dtype: bf16, fp16 or float32.

    Returns:
        Keys `[B, Hkv, length, Dk]` and values `[B, Hkv, length, Dv]` in `dtype`.

    Raises:
        RuntimeError: for a device, dtype or shape that is not supported, before anything is launched.
    """
    return ops.dequantize(
        codes,
        block_table,
        key_mean,
        query_transform,
        key_centroids,
        key_centroid_scale,
        value_mean,
        output_transform,
        value_centroids,
        value_centroid_scale,
        value_head_dim,
        start,
        length,
        dtype,
    )
