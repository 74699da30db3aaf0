# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A second, naive opinion on what a layer's buffers hold and on attention over them: float64, loops, own formulas.

Owns nothing of the package: tiles are read with the written layout formulas, H is made from bit counts, and every
token, head and row is visited by itself. Buffers and tolerances for the operator tests are here too.
"""

import math
from functools import lru_cache

import torch

from vecinfer_hf.ops.types import CacheBuffers
from vecinfer_hf.quantization.formats import implied_format
from vecinfer_hf.quantization.packing import bytes_per_tile


EPS = torch.finfo(torch.float32).eps


@lru_cache(maxsize=8)
def hadamard(dim: int) -> torch.Tensor:
    """Block Walsh-Hadamard matrix from the sign rule (-1)**popcount(i & j), float64."""
    block = dim & -dim
    matrix = torch.zeros(dim, dim, dtype=torch.float64)
    for i in range(dim):
        for j in range(i - i % block, i - i % block + block):
            matrix[i, j] = (-1) ** bin((i % block) & (j % block)).count("1") / math.sqrt(block)
    return matrix


@lru_cache(maxsize=65536)
def _place(token: int, sub: int, num_subvectors: int, side: str) -> int:
    multiple = 4 if side == "key" else 8
    padded = -(-num_subvectors // multiple) * multiple
    half, row = divmod(token, 16)
    per_lane = padded // multiple
    if side == "key":
        lane, offset = (row & 7) * 4 + sub // per_lane, (half * 2 + (row >> 3)) * per_lane + sub % per_lane
    else:
        lane = (sub // per_lane) * 4 + ((row & 7) >> 1)
        offset = (half * 4 + (((row & 1) << 1) | (row >> 3))) * per_lane + sub % per_lane
    length = multiple * per_lane if side == "value" else 4 * per_lane
    chunk = next(size for size in (16, 8, 4) if length % size == 0)
    return (offset // chunk) * 32 * chunk + lane * chunk + offset % chunk


def _read_code(tile: list[int], base: int, place: int, plane_size: int, bits: int) -> int:
    code = tile[base + place]
    extra = bits - 8
    if extra:
        per_byte = 8 // extra
        code |= ((tile[base + plane_size + place // per_byte] >> (place % per_byte) * extra) & (2**extra - 1)) << 8
    return code


def coded_token(
    tile: list[int], token: int, codebook, head: int, key_dim: int, value_dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Key and value of one quantized token of a tile in the model's own space, float64 `[Dk]` and `[Dv]`."""
    base, result = 0, []
    for side, centroids, scale, head_dim in (
        ("key", codebook.key_centroids, codebook.key_centroid_scale, key_dim),
        ("value", codebook.value_centroids, codebook.value_centroid_scale, value_dim),
    ):
        fmt = implied_format(centroids.shape)
        subs = head_dim // fmt.subvector_dim
        padded = -(-subs // (4 if side == "key" else 8)) * (4 if side == "key" else 8)
        vector = torch.zeros(head_dim, dtype=torch.float64)
        for level in range(fmt.num_codes):
            for sub in range(subs):
                code = _read_code(tile, base, _place(token, sub, subs, side), 32 * padded, fmt.bits_per_code)
                part = slice(sub * fmt.subvector_dim, (sub + 1) * fmt.subvector_dim)
                vector[part] += scale[head].double() * centroids[head, level, code].double()
            base += 32 * padded * fmt.bits_per_code // 8
        result.append(vector)
    key, value = result
    transform = codebook.query_transform[head].double()
    key = transform @ key if transform.dim() == 2 else (hadamard(key_dim) @ key) * transform
    if codebook.key_mean is not None:
        key = key + codebook.key_mean[head].double()
    if codebook.output_transform is not None:
        transform = codebook.output_transform[head].double()
        value = value @ transform if transform.dim() == 2 else (hadamard(value_dim) @ value) * transform
    if codebook.value_mean is not None:
        value = value + codebook.value_mean[head].double()
    return key, value


def stored_tokens(buffers, codebook, residual_length: int, row: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Everything a row of one head has stored, in the order of its own tokens: float64 `[length, D]` twice."""
    length, coded = int(buffers.lengths[row]), int(buffers.quantized_lengths[row])
    sinks, key_dim, value_dim = buffers.sink_keys.shape[2], buffers.sink_keys.shape[3], buffers.sink_values.shape[3]
    keys, values = [], []
    for index in range(length):
        n = index - sinks
        if n < 0:
            key, value = buffers.sink_keys[row, head, index].double(), buffers.sink_values[row, head, index].double()
        elif n < coded:
            block, tile = row, n // 32
            if buffers.block_table is not None:
                page, tile = divmod(tile, buffers.codes.shape[2])
                block = int(buffers.block_table[row, page])
            tile = buffers.codes[block, head, tile].tolist()
            key, value = coded_token(tile, n % 32, codebook, head, key_dim, value_dim)
        else:
            slot = n % residual_length
            key, value = buffers.ring_keys[row, head, slot].double(), buffers.ring_values[row, head, slot].double()
        keys.append(key)
        values.append(value)
    empty = (torch.zeros(0, dim, dtype=torch.float64) for dim in (key_dim, value_dim))
    return (torch.stack(keys), torch.stack(values)) if keys else tuple(empty)


def attend(query, keys, values, scale, softcap=0.0, sink=None) -> tuple[torch.Tensor, float]:
    """Attention of one query `[Dk]` over `[N, Dk]` and `[N, Dv]`: float64 `[Dv]` and the log-sum-exp."""
    logits = []
    for key in keys:
        score = float(query.double() @ key) * scale
        logits.append(softcap * math.tanh(score / softcap) if softcap else score)
    weightless = logits + ([float(sink)] if sink is not None else [])
    if not weightless:
        return torch.zeros(values.shape[1], dtype=torch.float64), -math.inf
    top = max(weightless)
    total = sum(math.exp(logit - top) for logit in weightless)
    output = torch.zeros(values.shape[1], dtype=torch.float64)
    for logit, value in zip(logits, values, strict=True):
        output += math.exp(logit - top) / total * value
    return output, top + math.log(total)


def decode_attention(query, buffers, codebook, residual_length, scale, softcap=0.0, sink_logits=None):
    """The operator in float64, `[B, Hq, Tq, Dv]` and `[B, Hq, Tq]`, and bounds on a float32 answer's errors."""
    batch, query_heads, queries, head_dim = query.shape
    group = query_heads // buffers.sink_keys.shape[1]
    output = torch.zeros(*query.shape[:3], buffers.sink_values.shape[3], dtype=torch.float64)
    lse = torch.zeros(query.shape[:3], dtype=torch.float64)
    largest_key = largest_value = 1.0
    for row in range(batch):
        length = int(buffers.lengths[row])
        for head in range(query_heads):
            keys, values = stored_tokens(buffers, codebook, residual_length, row, head // group)
            if length:
                largest_key = max(largest_key, keys.norm(dim=1).max().item())
                largest_value = max(largest_value, values.norm(dim=1).max().item())
            for t in range(queries):
                seen = max(length - queries + t + 1, 0)
                sink = None if sink_logits is None else sink_logits[head]
                output[row, head, t], lse[row, head, t] = attend(
                    query[row, head, t], keys[:seen], values[:seen], scale, softcap, sink
                )
    # A key is dequantized with D-term sums (condition below 3) and a score is one more: relative to |q| |k|. The
    # weights then differ by twice a score's error, and the weighted sum adds one rounding per token and term.
    score = (
        scale * query.double().norm(dim=-1).max().item() * largest_key * EPS * (4 * head_dim + 16) + softcap * 4 * EPS
    )
    tokens = int(buffers.lengths.max()) + 8
    return output, lse, (2 * score + (tokens + 4 * head_dim) * EPS) * largest_value, score + (tokens + 8) * EPS


def empty_buffers(codebook, batch, sinks, residual_length, tokens, dtype=torch.float32, fill=0, value_dim=None):
    """Buffers with room for `tokens` tokens a row; `fill` in the code bytes shows what reads past the end."""
    heads, dim = codebook.key_transform.shape[0], codebook.key_transform.shape[-1]
    dims = dim, dim if value_dim is None else value_dim
    formats = implied_format(codebook.key_centroids.shape), implied_format(codebook.value_centroids.shape)
    tiles = -(-tokens // 32)
    return CacheBuffers(
        torch.full((batch, heads, tiles, bytes_per_tile(*formats, *dims)), fill, dtype=torch.uint8),
        *(torch.zeros(batch, heads, sinks, dim, dtype=dtype) for dim in dims),
        *(torch.zeros(batch, heads, residual_length, dim, dtype=dtype) for dim in dims),
        *(torch.zeros(batch, dtype=torch.int32) for _ in range(2)),
    )


def filled_buffers(codebook, keys, values, lengths, sinks, residual_length):
    """Buffers into which row `b` has stored its first `lengths[b]` tokens of `keys` and `values` `[B, Hkv, T, D]`."""
    from vecinfer_hf.ops import reference
    from vecinfer_hf.ops.placement import store_tokens

    batch = keys.shape[0]
    value_dim = values.shape[3]
    buffers = empty_buffers(codebook, batch, sinks, residual_length, keys.shape[2], keys.dtype, 255, value_dim)
    zeros = [0] * batch
    store_tokens(keys, values, zeros, list(lengths), zeros, zeros, buffers, codebook, reference.quantize)
    return buffers
