# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Vectors to codes and back for given centroids: the nearest-centroid search and the sum of centroids.

Owns the search, its order over additive levels, and the form in which centroids are stored (int8 times a scale).
kmeans.py makes the centroids, packing.py stores the codes, transforms.py comes before and after.
"""

from __future__ import annotations

import torch


_CPU_SCORES, _GPU_SCORES = 1 << 20, 1 << 26
"""Scores held at once by the search: 4 MiB of float32 stay in a CPU's cache, 256 MiB fill a GPU."""
_BATCHED_SCORES = 1 << 18
"""On a CPU, searches with fewer scores than this run all problems in one product: a decode step has few vectors."""


def nearest_centroids(points: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nearest centroid of every point, the lowest index on ties, and its score `x . c - |c|^2 / 2`.

    The squared distance is `|x|^2 - 2 * score`. P problems are independent. Memory is bounded: 2**20 scores on a CPU,
    2**26 on a GPU, are formed at a time.

    Args:
        points: float32 `[P, N, d]`, without gradient.
        centroids: float32 `[P, K, d]`, without gradient.

    Returns:
        int64 `[P, N]` and float32 `[P, N]`.
    """
    problems, count, _ = points.shape
    size = centroids.shape[1]
    bias = (-0.5 * centroids.square().sum(-1)).unsqueeze(1)
    table = centroids.transpose(1, 2)
    on_cpu, scores = points.device.type == "cpu", problems * count * size
    # `max` is several times faster than `argmax` on a CPU.
    if problems > 1 and scores <= (_BATCHED_SCORES if on_cpu else _GPU_SCORES):
        score, index = torch.baddbmm(bias, points, table).max(-1)
        return index, score
    index = torch.empty(problems, count, dtype=torch.int64, device=points.device)
    score = torch.empty(problems, count, device=points.device)
    # On a CPU one problem at a time: its centroids stay in the cache.
    groups = [slice(p, p + 1) for p in range(problems)] if on_cpu else [slice(None)]
    step = max(1, _CPU_SCORES // size if on_cpu else _GPU_SCORES // (problems * size))
    for group in groups:
        for start in range(0, count, step):
            part = group, slice(start, start + step)
            score[part], index[part] = torch.baddbmm(bias[group], points[part], table[group]).max(-1)
    return index, score


def greedy_codes(points: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Return the codes of points: at each level the nearest centroid of what the earlier levels leave.

    Args:
        points: float32 `[P, N, d]`.
        centroids: float32 `[P, num_codes, K, d]`.

    Returns:
        int64 `[P, num_codes, N]`.
    """
    codes, rest = [], points
    for level in range(centroids.shape[1]):
        if level:
            rest = rest - look_up(centroids[:, level - 1], codes[-1])
        codes.append(nearest_centroids(rest, centroids[:, level])[0])
    return codes[0].unsqueeze(1) if len(codes) == 1 else torch.stack(codes, 1)


def look_up(centroids: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return the centroids `[P, N, d]` with the indices int64 `[P, N]` in `centroids` `[P, K, d]`."""
    return centroids.gather(1, codes.unsqueeze(-1).expand(-1, -1, centroids.shape[-1]))


def encode(vectors: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Return the codes of the sub-vectors of `vectors`.

    Args:
        vectors: float32 `[B, Hkv, T, D]` in the transformed space.
        centroids: float32 `[Hkv, num_codes, codebook_size, subvector_dim]`.

    Returns:
        int32 `[B, Hkv, T, num_codes, D / subvector_dim]`.
    """
    batch, heads, tokens, head_dim = vectors.shape
    _, num_codes, _, dim = centroids.shape
    codes = greedy_codes(vectors.transpose(0, 1).reshape(heads, -1, dim), centroids).to(torch.int32)
    return codes.view(heads, num_codes, batch, tokens, head_dim // dim).permute(2, 0, 3, 1, 4)


def decode(codes: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Return the vectors that `codes` stand for, the sums of their centroids; differentiable in `centroids`.

    Args:
        codes: int32 `[B, Hkv, T, num_codes, num_subvectors]`.
        centroids: float32 `[Hkv, num_codes, codebook_size, subvector_dim]`.

    Returns:
        float32 `[B, Hkv, T, num_subvectors * subvector_dim]`.
    """
    batch, heads, tokens, num_codes, num_subvectors = codes.shape
    size, dim = centroids.shape[-2:]
    # One table for all heads and levels: a single index_select per level is several times faster than a gather.
    table = centroids.reshape(-1, dim)
    offsets = torch.arange(heads, device=codes.device, dtype=torch.int32).view(1, heads, 1, 1) * (num_codes * size)
    total = None
    for level in range(num_codes):
        part = table.index_select(0, (codes[:, :, :, level] + (offsets + level * size)).flatten())
        total = part if total is None else total + part
    return total.view(batch, heads, tokens, num_subvectors * dim)


def quantize(vectors: torch.Tensor, centroids: torch.Tensor, centroid_scale: torch.Tensor) -> torch.Tensor:
    """Return the codes of `vectors` for centroids as they are stored.

    Args:
        vectors: float32 `[B, Hkv, T, D]` in the transformed space.
        centroids: int8 `[Hkv, num_codes, codebook_size, subvector_dim]`.
        centroid_scale: float32 `[Hkv]`.

    Returns:
        int32 `[B, Hkv, T, num_codes, D / subvector_dim]`.
    """
    # In units of centroid_scale the centroids are integers, so their norms are exact.
    return encode(vectors / centroid_scale.view(-1, 1, 1), centroids.float())


def dequantize(codes: torch.Tensor, centroids: torch.Tensor, centroid_scale: torch.Tensor) -> torch.Tensor:
    """Return the vectors that `codes` stand for, in the transformed space.

    Args:
        codes: int32 `[B, Hkv, T, num_codes, num_subvectors]`.
        centroids: int8 `[Hkv, num_codes, codebook_size, subvector_dim]`.
        centroid_scale: float32 `[Hkv]`.

    Returns:
        float32 `[B, Hkv, T, num_subvectors * subvector_dim]`.
    """
    return decode(codes, centroids.float() * centroid_scale.view(-1, 1, 1, 1))


def round_to_int8(centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return centroids as int8 and the scale of each problem: `centroids ~ int8 * scale`, off by at most `scale / 2`.

    Args:
        centroids: float `[P, ...]`.

    Returns:
        int8 of the same shape and float32 `[P]`, positive.
    """
    flat = centroids.detach().float().flatten(1)
    largest = flat.abs().amax(1)
    scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    rounded = (flat / scale.unsqueeze(1)).round().clamp(-127, 127).to(torch.int8)
    return rounded.view(centroids.shape), scale
