# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The operators in plain float32 torch: the specification that compiled kernels are tested against.

Clear before fast. It reads lengths on the host, so on a GPU it synchronizes; kernels.py holds the fast operators.
Keys of head size `Dk` and values of head size `Dv` may differ, and codes may lie in pages (`PagedBuffers`).
"""

from __future__ import annotations

import torch

from ..quantization import packing, quantizer
from ..quantization.formats import CodeFormat, implied_format
from ..quantization.transforms import apply_transform, invert_transform, key_inverse
from .blockwise import blockwise_attention, cache_blocks
from .placement import store_tokens
from .tiles import read_tiles, write_tiles
from .types import Buffers, LayerCodebook


def quantize(
    key_states: torch.Tensor,
    value_states: torch.Tensor,
    buffers: Buffers,
    starts: torch.Tensor,
    counts: torch.Tensor,
    first: torch.Tensor,
    codebook: LayerCodebook,
) -> None:
    """Write tokens as codes: of row `b`, tokens `first[b] .. first[b] + counts[b]` go to code slots from `starts[b]`.

    Args:
        key_states: `[B, Hkv, T, Dk]`.
        value_states: `[B, Hkv, T, Dv]`.
        buffers: its codes are changed in place; lengths are neither read nor changed.
        starts: int32 `[B]`, first code slot.
        counts: int32 `[B]`, tokens.
        first: int32 `[B]`, first token.
        codebook: the layer's codebook.

    Raises:
        UnsupportedCallError: if the codes, or a row's pages, have no room for its tokens.
    """
    head_dims = key_states.shape[-1], value_states.shape[-1]
    formats = _formats(codebook)
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
        region = read_tiles(buffers.codes, buffers.block_table, first_tile, last_tile, rows)
        merged = packing.unpack(region, *formats, *head_dims)
        for whole, part in zip(merged, new, strict=True):
            whole[:, :, offset : offset + count] = part
        packed = packing.pack(*merged, *formats, *head_dims)
        write_tiles(buffers.codes, buffers.block_table, first_tile, packed, rows)


def dequantize(
    buffers: Buffers, codebook: LayerCodebook, start: int, length: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the keys and values that code slots `start .. start + length` stand for, in the model's own space.

    Args:
        buffers: the layer's storage; slots behind a row's quantized tokens give any numbers.
        codebook: the layer's codebook.
        start: first code slot.
        length: code slots.
        dtype: dtype of the result.

    Returns:
        Keys `[B, Hkv, length, Dk]` and values `[B, Hkv, length, Dv]`.

    Raises:
        UnsupportedCallError: if a row has no room for these slots.
    """
    first_tile, offset = divmod(start, packing.TILE)
    tiles = read_tiles(buffers.codes, buffers.block_table, first_tile, -(-(start + length) // packing.TILE))
    head_dims = buffers.ring_keys.shape[3], buffers.ring_values.shape[3]
    key_codes, value_codes = packing.unpack(tiles, *_formats(codebook), *head_dims)
    keys = quantizer.dequantize(
        key_codes[:, :, offset : offset + length], codebook.key_centroids, codebook.key_centroid_scale
    )
    values = quantizer.dequantize(
        value_codes[:, :, offset : offset + length], codebook.value_centroids, codebook.value_centroid_scale
    )
    keys = invert_transform(keys, key_inverse(codebook.query_transform), codebook.key_mean)
    values = invert_transform(values, codebook.output_transform, codebook.value_mean)
    return keys.to(dtype), values.to(dtype)


def append(key_states: torch.Tensor, value_states: torch.Tensor, buffers: Buffers, codebook: LayerCodebook) -> None:
    """Append the same number of tokens to every row: sinks first, then the ring; what leaves the ring becomes codes.

    Args:
        key_states: `[B, Hkv, T, Dk]`; compiled kernels take at most 16 tokens, and no more than the ring has slots.
        value_states: `[B, Hkv, T, Dv]`.
        buffers: changed in place, lengths included; `codes` and the ring must have room.
        codebook: the layer's codebook.
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
        quantize,
    )


def decode_attention(
    query: torch.Tensor,
    buffers: Buffers,
    codebook: LayerCodebook,
    softmax_scale: float,
    softcap: float = 0.0,
    sink_logits: torch.Tensor | None = None,
    num_splits: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention of each row's last `Tq` tokens, already appended, over everything stored up to themselves.

    Equation 7 of https://arxiv.org/abs/2510.06175, with exact sinks and ring.

    Args:
        query: `[B, Hq, Tq, Dk]`, queries after RoPE; compiled kernels take at most 16 tokens, and no more than the
            ring has slots.
        buffers: the layer's storage.
        codebook: the layer's codebook.
        softmax_scale: factor on `q . k`.
        softcap: see `blockwise_attention`; 0 for none.
        sink_logits: `[Hq]`, one extra logit per head without a value, or None.
        num_splits: ignored here; compiled kernels split the tokens over so many thread blocks.

    Returns:
        `[B, Hq, Tq, Dv]` in the query's dtype and the natural log-sum-exp, float32 `[B, Hq, Tq]`.
    """
    queries = query.shape[2]
    blocks = cache_blocks(
        buffers,
        lambda start, length: dequantize(buffers, codebook, start, length, torch.float32),
        int(buffers.quantized_lengths.max()),
    )
    first_query = buffers.lengths.long().unsqueeze(1) - queries
    query_index = first_query + torch.arange(queries, device=query.device)
    output, lse = blockwise_attention(query, blocks, query_index, softmax_scale, softcap, sink_logits)
    return output.to(query.dtype), lse


def _formats(codebook: LayerCodebook) -> tuple[CodeFormat, CodeFormat]:
    """Return the code formats of keys and values."""
    return implied_format(codebook.key_centroids.shape), implied_format(codebook.value_centroids.shape)
