# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
# Hub kernels are to run on Python 3.9.
# ruff: noqa: UP006, UP035, UP045
"""CUDA operators on a vector-quantized KV cache (https://arxiv.org/abs/2510.06175).

Thin wrappers of the compiled operators. Shapes below use `B` rows, `Hkv` key/value heads, `Hq` query heads, `D` the
head size and, for a code format, `n` additive codes of `b` bits over `d` elements. Optional tensors may be None.
Transforms are float32 `[Hkv, D]` (diagonal, next to the orthonormal block Hadamard matrix) or `[Hkv, D, D]` (full).
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
        key_states: bf16 or fp16 `[B, Hkv, T, D]`, last dimension contiguous.
        value_states: the same shape and dtype.
        codes: uint8 `[B, Hkv, num_tiles, bytes_per_tile]`, last two dimensions contiguous; changed in place.
        starts: int32 `[B]`, first code slot of a row.
        counts: int32 `[B]`, tokens of a row.
        first: int32 `[B]`, first token of a row.
        key_mean: float32 `[Hkv, D]` or None.
        key_transform: float32 `[Hkv, D]` or `[Hkv, D, D]`.
        key_centroids: int8 `[Hkv, n, 2**b, d]`.
        key_centroid_scale: float32 `[Hkv]`.
        value_mean: float32 `[Hkv, D]` or None.
        value_transform: float32 `[Hkv, D]`, `[Hkv, D, D]` or None (values stored as they are).
        value_centroids: int8 `[Hkv, n, 2**b, d]`.
        value_centroid_scale: float32 `[Hkv]`.

    Raises:
        RuntimeError: for a device, dtype or shape that is not supported, before anything is launched.
    """
    ops.quantize(
        key_states,
        value_states,
        codes,
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
    sink_keys: torch.Tensor,
    sink_values: torch.Tensor,
    window_keys: torch.Tensor,
    window_values: torch.Tensor,
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
    residual_length: int,
) -> None:
    """Append `T` tokens to every row: sinks first, then the ring; a token that leaves the ring becomes codes.

    Lengths live in device memory and are advanced there: no host synchronization, safe inside a CUDA graph.

    Args:
        key_states: bf16 or fp16 `[B, Hkv, T, D]`, `T` at most 16 and at most `residual_length`.
        value_states: the same shape and dtype.
        codes: uint8 `[B, Hkv, num_tiles, bytes_per_tile]`; changed in place.
        sink_keys: `[B, Hkv, S, D]`, dtype of the states; changed in place.
        sink_values: `[B, Hkv, S, D]`; changed in place.
        window_keys: `[B, Hkv, C, D]`, the ring; changed in place.
        window_values: `[B, Hkv, C, D]`; changed in place.
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
        residual_length: size R of the full ring, in tokens.

    Raises:
        RuntimeError: for a device, dtype or shape that is not supported, before anything is launched.
    """
    ops.append(
        key_states,
        value_states,
        codes,
        sink_keys,
        sink_values,
        window_keys,
        window_values,
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
        residual_length,
    )


def decode_attention(
    query: torch.Tensor,
    codes: torch.Tensor,
    sink_keys: torch.Tensor,
    sink_values: torch.Tensor,
    window_keys: torch.Tensor,
    window_values: torch.Tensor,
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
    residual_length: int,
    softmax_scale: float,
    softcap: float = 0.0,
    attention_sinks: Optional[torch.Tensor] = None,
    num_splits: int = 0,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return the attention of each row's last `Tq` tokens, already appended, over everything stored up to themselves.

    Equation 7 of https://arxiv.org/abs/2510.06175, with exact sinks and ring. Softmax weights over codes are rounded
    to multiples of 2^-13 of the largest one that a warp has seen, by a dither that keeps sums in the mean: no weight
    vanishes systematically, and one weight can be off by 2^-13 of the largest. `Tq` may not exceed `residual_length`.

    Args:
        query: bf16 or fp16 `[B, Hq, Tq, D]`, `Tq` at most 16; query head `i` reads key/value head `i // (Hq / Hkv)`.
        codes: uint8 `[B, Hkv, num_tiles, bytes_per_tile]`.
        sink_keys: `[B, Hkv, S, D]`.
        sink_values: `[B, Hkv, S, D]`.
        window_keys: `[B, Hkv, C, D]`, the ring.
        window_values: `[B, Hkv, C, D]`.
        lengths: int32 `[B]`, tokens stored.
        quantized_lengths: int32 `[B]`, tokens stored as codes.
        key_mean: float32 `[Hkv, D]` or None.
        query_transform: float32 `[Hkv, D]` or `[Hkv, D, D]`.
        key_centroids: int8 `[Hkv, n, 2**b, d]`.
        key_centroid_scale: float32 `[Hkv]`.
        value_mean: float32 `[Hkv, D]` or None.
        output_transform: inverse of the value transform, float32 `[Hkv, D]`, `[Hkv, D, D]` or None.
        value_centroids: int8 `[Hkv, n, 2**b, d]`.
        value_centroid_scale: float32 `[Hkv]`.
        residual_length: size R of the full ring, in tokens.
        softmax_scale: factor on `q . k`.
        softcap: scores become `softcap * tanh(score / softcap)`; 0 for none.
        attention_sinks: float `[Hq]`, one extra logit per head without a value, or None.
        num_splits: thread blocks a row's codes are split over; 0 chooses. Deterministic for a fixed number.

    Returns:
        `[B, Hq, Tq, D]` in the query's dtype and the natural log-sum-exp, float32 `[B, Hq, Tq]`.

    Raises:
        RuntimeError: for a device, dtype or shape that is not supported, before anything is launched.
    """
    return ops.decode_attention(
        query,
        codes,
        sink_keys,
        sink_values,
        window_keys,
        window_values,
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
        residual_length,
        softmax_scale,
        softcap,
        attention_sinks,
        num_splits,
    )


def dequantize(
    codes: torch.Tensor,
    key_mean: Optional[torch.Tensor],
    query_transform: torch.Tensor,
    key_centroids: torch.Tensor,
    key_centroid_scale: torch.Tensor,
    value_mean: Optional[torch.Tensor],
    output_transform: Optional[torch.Tensor],
    value_centroids: torch.Tensor,
    value_centroid_scale: torch.Tensor,
    start: int,
    length: int,
    dtype: torch.dtype,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return the keys and values that code slots `start .. start + length` stand for, in the model's own space.

    Args:
        codes: uint8 `[B, Hkv, num_tiles, bytes_per_tile]`.
        key_mean: float32 `[Hkv, D]` or None.
        query_transform: float32 `[Hkv, D]` or `[Hkv, D, D]`; its transpose inverts the key transform.
        key_centroids: int8 `[Hkv, n, 2**b, d]`.
        key_centroid_scale: float32 `[Hkv]`.
        value_mean: float32 `[Hkv, D]` or None.
        output_transform: inverse of the value transform, float32 `[Hkv, D]`, `[Hkv, D, D]` or None.
        value_centroids: int8 `[Hkv, n, 2**b, d]`.
        value_centroid_scale: float32 `[Hkv]`.
        start: first code slot.
        length: code slots.
        dtype: bf16, fp16 or float32.

    Returns:
        Keys and values, `[B, Hkv, length, D]` in `dtype`.

    Raises:
        RuntimeError: for a device, dtype or shape that is not supported, before anything is launched.
    """
    return ops.dequantize(
        codes,
        key_mean,
        query_transform,
        key_centroids,
        key_centroid_scale,
        value_mean,
        output_transform,
        value_centroids,
        value_centroid_scale,
        start,
        length,
        dtype,
    )
