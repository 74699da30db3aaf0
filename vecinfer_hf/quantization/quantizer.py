# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Vectors to codes and back for given centroids: the nearest-centroid search and the sum of centroids.

Owns quantize and dequantize in the transformed space; kmeans.py makes the centroids, packing.py stores the codes.
"""

from __future__ import annotations

import torch


_CHUNK_ELEMENTS = 1 << 24
"""Scores held at once by the search (64 MiB of float32), so that a long prefill stays small."""


def quantize(vectors: torch.Tensor, centroids: torch.Tensor, centroid_scale: torch.Tensor) -> torch.Tensor:
    """Return the codes of `vectors`: per sub-vector and level the nearest centroid of what is left, lowest on ties.

    Args:
        vectors: float32 `[B, Hkv, T, D]` in the transformed space.
        centroids: int8 `[Hkv, num_codes, codebook_size, subvector_dim]`.
        centroid_scale: float32 `[Hkv]`.

    Returns:
        int32 `[B, Hkv, T, num_codes, D / subvector_dim]`.
    """
    batch, heads, tokens, head_dim = vectors.shape
    _, num_codes, size, dim = centroids.shape
    # In units of centroid_scale the centroids are integers, so their norms are exact.
    scaled = (vectors / centroid_scale.view(1, heads, 1, 1)).transpose(0, 1).reshape(heads, -1, dim)
    codes = torch.empty(heads, scaled.shape[1], num_codes, dtype=torch.int32, device=vectors.device)
    table = centroids.float()
    half_norms = table.square().sum(-1) * 0.5
    step = max(1, _CHUNK_ELEMENTS // (heads * size))
    for start in range(0, scaled.shape[1], step):
        rest = scaled[:, start : start + step]
        for level in range(num_codes):
            scores = torch.baddbmm(-half_norms[:, level].unsqueeze(1), rest, table[:, level].transpose(1, 2))
            best = scores.argmax(-1)
            codes[:, start : start + step, level] = best.to(torch.int32)
            if level + 1 < num_codes:
                rest = rest - table[:, level].gather(1, best.unsqueeze(-1).expand(-1, -1, dim))
    return codes.view(heads, batch, tokens, head_dim // dim, num_codes).permute(1, 0, 2, 4, 3)


def dequantize(codes: torch.Tensor, centroids: torch.Tensor, centroid_scale: torch.Tensor) -> torch.Tensor:
    """Return the vectors that `codes` stand for, in the transformed space.

    Args:
        codes: int32 `[B, Hkv, T, num_codes, num_subvectors]`.
        centroids: int8 `[Hkv, num_codes, codebook_size, subvector_dim]`.
        centroid_scale: float32 `[Hkv]`.

    Returns:
        float32 `[B, Hkv, T, num_subvectors * subvector_dim]`.
    """
    batch, heads, tokens, num_codes, num_subvectors = codes.shape
    size, dim = centroids.shape[-2:]
    table = (centroids.float() * centroid_scale.view(-1, 1, 1, 1)).view(-1, dim)
    # One table for all heads and levels: a single index_select per level is several times faster than a gather.
    offsets = torch.arange(heads, device=codes.device, dtype=torch.int32).view(1, heads, 1, 1) * (num_codes * size)
    total = None
    for level in range(num_codes):
        index = (codes[:, :, :, level] + (offsets + level * size)).flatten()
        part = table.index_select(0, index)
        total = part if total is None else total + part
    return total.view(batch, heads, tokens, num_subvectors * dim)
