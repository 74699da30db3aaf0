# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The operators in float64, written naively and apart from both the kernels and vecinfer_hf.

Owns the definition that the kernel's tests compare with: transforms, tile order, reconstruction, attention. All
functions work on the tensors' device. Shapes: B rows, Hkv key/value heads, T tokens, D head size.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch


class Codebook(NamedTuple):
    """One layer's codebook, as in vecinfer_hf/ops/types.py."""

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


class Format(NamedTuple):
    """`num_codes` additive codes of `bits` bits over `dim` elements."""

    dim: int
    bits: int
    num_codes: int


def format_of(centroids: torch.Tensor) -> Format:
    """Return the format of centroids `[Hkv, num_codes, 2**bits, dim]`."""
    return Format(centroids.shape[3], centroids.shape[2].bit_length() - 1, centroids.shape[1])


@lru_cache(maxsize=8)
def hadamard(head_dim: int, device: torch.device) -> torch.Tensor:
    """Return H `[D, D]`: entry (i, j) of a block is (-1)^popcount(i & j) / sqrt(block)."""
    block = head_dim & -head_dim
    matrix = torch.zeros(head_dim, head_dim, dtype=torch.float64)
    for start in range(0, head_dim, block):
        for i in range(block):
            for j in range(block):
                matrix[start + i, start + j] = (-1) ** (i & j).bit_count() / math.sqrt(block)
    return matrix.to(device)


def forward(states: torch.Tensor, weight: torch.Tensor | None, mean: torch.Tensor | None) -> torch.Tensor:
    """Return states `[B, Hkv, T, D]` in the transformed space."""
    x = states.double()
    if mean is not None:
        x = x - mean.double()[:, None]
    if weight is None:
        return x
    if weight.dim() == 3:
        return torch.einsum("bhtd,hde->bhte", x, weight.double())
    return (x * weight.double()[:, None]) @ hadamard(x.shape[-1], x.device)


def backward(states: torch.Tensor, weight: torch.Tensor | None, mean: torch.Tensor | None) -> torch.Tensor:
    """Return transformed states in the original space, given the inverse's weight."""
    x = states.double()
    if weight is not None and weight.dim() == 3:
        x = torch.einsum("bhtd,hde->bhte", x, weight.double())
    elif weight is not None:
        x = (x @ hadamard(x.shape[-1], x.device)) * weight.double()[:, None]
    return x if mean is None else x + mean.double()[:, None]


def padded(fmt: Format, head_dim: int, side: str) -> int:
    """Return the sub-vectors a plane has room for."""
    multiple = 4 if side == "key" else 8
    return math.ceil(head_dim // fmt.dim / multiple) * multiple


def plane_bytes(fmt: Format, head_dim: int, side: str) -> int:
    """Return the bytes of one plane."""
    return 32 * padded(fmt, head_dim, side) * fmt.bits // 8


def tile_bytes(key: Format, value: Format, head_dim: int) -> int:
    """Return the bytes of one tile."""
    return key.num_codes * plane_bytes(key, head_dim, "key") + value.num_codes * plane_bytes(value, head_dim, "value")


def position(side: str, token: int, subvector: int, room: int) -> int:
    """Return the place of a code in its plane of `room` sub-vectors per token."""
    half, row = divmod(token, 16)
    if side == "key":
        per_lane = room // 4
        lane = (row % 8) * 4 + subvector // per_lane
        index = (half * 2 + row // 8) * per_lane + subvector % per_lane
        length = 4 * per_lane
    else:
        per_lane = room // 8
        lane = (subvector // per_lane) * 4 + (row % 8) // 2
        index = (half * 4 + (row % 2) * 2 + row // 8) * per_lane + subvector % per_lane
        length = 8 * per_lane
    chunk = max(size for size in (4, 8, 16) if length % size == 0)
    return index // chunk * 32 * chunk + lane * chunk + index % chunk


def read_codes(codes: torch.Tensor, key: Format, value: Format, head_dim: int, side: str) -> torch.Tensor:
    """Return the codes of one side, int64 `[B, Hkv, tokens, num_codes, subvectors]`, tokens in slot order."""
    fmt = key if side == "key" else value
    offset = 0 if side == "key" else key.num_codes * plane_bytes(key, head_dim, "key")
    room, subvectors = padded(fmt, head_dim, side), head_dim // fmt.dim
    places = torch.tensor([[position(side, t, s, room) for s in range(subvectors)] for t in range(32)])
    places = places.to(codes.device)
    high_bits = fmt.bits - 8
    levels = []
    for level in range(fmt.num_codes):
        start = offset + level * plane_bytes(fmt, head_dim, side)
        plane = codes[..., start : start + plane_bytes(fmt, head_dim, side)].long()
        code = plane[..., places]
        if high_bits:
            bit = places * high_bits
            code = code + ((plane[..., 32 * room + bit // 8] >> (bit % 8)) % 2**high_bits) * 256
        levels.append(code)
    return torch.stack(levels, dim=-2).flatten(2, 3)


def reconstruct(codes: torch.Tensor, centroids: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return what codes `[B, Hkv, T, n, s]` stand for in the transformed space, float64 `[B, Hkv, T, D]`."""
    heads = torch.arange(codes.shape[1], device=codes.device)[:, None, None]
    total = 0
    for level in range(codes.shape[3]):
        total = total + centroids.double()[heads, level, codes[:, :, :, level]]
    return (total * scale.double()[:, None, None, None]).flatten(-2)


def greedy_distances(vectors: torch.Tensor, codes: torch.Tensor, centroids: torch.Tensor, scale: torch.Tensor):
    """Yield, per level, the distance reached and the least possible one from what the earlier levels left.

    Args:
        vectors: float64 `[B, Hkv, T, D]` in the transformed space.
        codes: `[B, Hkv, T, n, s]`.
        centroids: `[Hkv, n, size, d]`.
        scale: `[Hkv]`.
    """
    dim = centroids.shape[3]
    rest = vectors.unflatten(-1, (-1, dim))
    table = centroids.double() * scale.double()[:, None, None, None]
    heads = torch.arange(codes.shape[1], device=codes.device)[:, None, None]
    for level in range(codes.shape[3]):
        chosen = table[heads, level, codes[:, :, :, level]]
        best = torch.stack(
            [torch.cdist(rest[:, h].flatten(0, -2), table[h, level]).amin(-1) for h in range(rest.shape[1])], 1
        )
        best = best.view(rest.shape[0], -1, rest.shape[1]).transpose(1, 2).reshape(rest.shape[:-1])
        yield (rest - chosen).norm(dim=-1), best
        rest = rest - chosen


def attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    softmax_scale: float,
    softcap: float = 0.0,
    sink_logits: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return causal attention of one row's last Tq tokens over its N tokens, and the log-sum-exp.

    Args:
        query: `[Hq, Tq, D]`; query head i reads key/value head i // (Hq / Hkv).
        keys: `[Hkv, N, D]`, in the row's own order.
        values: `[Hkv, N, D]`.
        softmax_scale: factor on q . k.
        softcap: scores become softcap * tanh(score / softcap); 0 for none.
        sink_logits: `[Hq]` extra logits, or None.
    """
    group = query.shape[0] // keys.shape[0]
    keys = keys.double().repeat_interleave(group, 0)
    values = values.double().repeat_interleave(group, 0)
    scores = torch.einsum("hqd,hnd->hqn", query.double(), keys) * softmax_scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    queries, tokens = scores.shape[1:]
    last = torch.arange(tokens - queries, tokens, device=scores.device)
    scores = scores.masked_fill(torch.arange(tokens, device=scores.device) > last[:, None], float("-inf"))
    logits = scores
    if sink_logits is not None:
        sink = sink_logits.double()[:, None, None].expand(-1, queries, 1)
        logits = torch.cat([scores, sink], -1)
    lse = torch.logsumexp(logits, -1)
    weights = torch.exp(scores - lse[..., None].nan_to_num(neginf=0.0))
    return torch.einsum("hqn,hnd->hqd", weights, values), lse
