# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The operators in plain float32 torch: the specification that compiled kernels are tested against.

Clear before fast. It reads lengths on the host, so on a GPU it synchronizes; kernels.py holds the fast operators.
"""

from __future__ import annotations

import torch

from ..quantization import packing, quantizer
from ..quantization.formats import implied_format
from ..quantization.transforms import apply_transform, invert_transform, key_inverse
from .blockwise import blockwise_attention, cache_blocks
from .placement import store_tokens
from .types import CacheBuffers, LayerCodebook


def quantize(
    key_states: torch.Tensor,
    value_states: torch.Tensor,
    codes: torch.Tensor,
    starts: torch.Tensor,
    counts: torch.Tensor,
    first: torch.Tensor,
    codebook: LayerCodebook,
) -> None:
    """Write tokens as codes: of row `b`, tokens `first[b] .. first[b] + counts[b]` go to code slots from `starts[b]`.

    Args:
        key_states: `[B, Hkv, T, D]`.
        value_states: `[B, Hkv, T, D]`.
        codes: uint8 `[B, Hkv, num_tiles, bytes_per_tile]`, changed in place.
        starts: int32 `[B]`, first code slot.
        counts: int32 `[B]`, tokens.
        first: int32 `[B]`, first token.
        codebook: the layer's codebook.
    """
    head_dim = key_states.shape[-1]
    formats = implied_format(codebook.key_centroids.shape), implied_format(codebook.value_centroids.shape)
    rows_by_place: dict[tuple[int, int, int], list[int]] = {}
    for row, place in enumerate(zip(starts.tolist(), counts.tolist(), first.tolist(), strict=True)):
        rows_by_place.setdefault(place, []).append(row)
    for (start, count, begin), rows in rows_by_place.items():
        if not count:
            continue
        keys = apply_transform(key_states[rows, :, begin : begin + count], codebook.key_transform, codebook.key_mean)
        values = apply_transform(
            value_states[rows, :, begin : begin + count], codebook.value_transform, codebook.value_mean
        )
        new = (
            quantizer.quantize(keys, codebook.key_centroids, codebook.key_centroid_scale),
            quantizer.quantize(values, codebook.value_centroids, codebook.value_centroid_scale),
        )
        first_tile, offset = divmod(start, packing.TILE)
        last_tile = -(-(start + count) // packing.TILE)
        # Tiles that are only partly written keep their other tokens.
        region = codes[rows, :, first_tile:last_tile]
        merged = packing.unpack(region, *formats, head_dim)
        for whole, part in zip(merged, new, strict=True):
            whole[:, :, offset : offset + count] = part
        codes[rows, :, first_tile:last_tile] = packing.pack(*merged, *formats, head_dim)


def dequantize(
    codes: torch.Tensor, codebook: LayerCodebook, start: int, length: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the keys and values that code slots `start .. start + length` stand for, in the model's own space.

    Args:
        codes: uint8 `[B, Hkv, num_tiles, bytes_per_tile]`.
        codebook: the layer's codebook.
        start: first code slot.
        length: code slots.
        dtype: dtype of the result.

    Returns:
        Keys and values, `[B, Hkv, length, D]`.
    """
    key_format, value_format = (
        implied_format(codebook.key_centroids.shape),
        implied_format(codebook.value_centroids.shape),
    )
    head_dim = codebook.key_transform.shape[-1]
    first_tile, offset = divmod(start, packing.TILE)
    tiles = codes[:, :, first_tile : -(-(start + length) // packing.TILE)]
    key_codes, value_codes = packing.unpack(tiles, key_format, value_format, head_dim)
    keys = quantizer.dequantize(
        key_codes[:, :, offset : offset + length], codebook.key_centroids, codebook.key_centroid_scale
    )
    values = quantizer.dequantize(
        value_codes[:, :, offset : offset + length], codebook.value_centroids, codebook.value_centroid_scale
    )
    keys = invert_transform(keys, key_inverse(codebook.query_transform), codebook.key_mean)
    values = invert_transform(values, codebook.output_transform, codebook.value_mean)
    return keys.to(dtype), values.to(dtype)


def append(
    key_states: torch.Tensor,
    value_states: torch.Tensor,
    buffers: CacheBuffers,
    codebook: LayerCodebook,
    residual_length: int,
) -> None:
    """Append the same number of tokens to every row: sinks first, then the ring; what leaves the ring becomes codes.

    Args:
        key_states: `[B, Hkv, T, D]` with `T <= residual_length`.
        value_states: `[B, Hkv, T, D]`.
        buffers: changed in place, lengths included; `codes` and the ring must have room.
        codebook: the layer's codebook.
        residual_length: size R of the full ring.
    """
    batch, tokens = key_states.shape[0], key_states.shape[2]
    store_tokens(
        key_states,
        value_states,
        [0] * batch,
        [tokens] * batch,
        buffers.lengths.tolist(),
        buffers.quantized_lengths.tolist(),
        buffers,
        codebook,
        residual_length,
        quantize,
    )


def decode_attention(
    query: torch.Tensor,
    buffers: CacheBuffers,
    codebook: LayerCodebook,
    residual_length: int,
    softmax_scale: float,
    softcap: float = 0.0,
    attention_sinks: torch.Tensor | None = None,
    num_splits: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention of each row's last `Tq` tokens, already appended, over everything stored up to themselves.

    Equation 7 of https://arxiv.org/abs/2510.06175, with exact sinks and window.

    Args:
        query: `[B, Hq, Tq, D]`, queries after RoPE.
        buffers: the layer's storage.
        codebook: the layer's codebook.
        residual_length: size R of the full ring.
        softmax_scale: factor on `q . k`.
        softcap: see `blockwise_attention`; 0 for none.
        attention_sinks: `[Hq]` or None.
        num_splits: ignored here; compiled kernels split the tokens over so many thread blocks.

    Returns:
        `[B, Hq, Tq, D]` in the query's dtype and the natural log-sum-exp, float32 `[B, Hq, Tq]`.
    """
    queries = query.shape[2]
    blocks = cache_blocks(
        buffers,
        residual_length,
        lambda start, length: dequantize(buffers.codes, codebook, start, length, torch.float32),
        int(buffers.quantized_lengths.max()),
    )
    first_query = buffers.lengths.long().unsqueeze(1) - queries
    query_index = first_query + torch.arange(queries, device=query.device)
    output, lse = blockwise_attention(query, blocks, query_index, softmax_scale, softcap, attention_sinks)
    return output.to(query.dtype), lse
