# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""First centroids for k-means: k-means++ (Arthur and Vassilvitskii, 2007) on a random subset of the points."""

from __future__ import annotations

import torch


SEEDING_POINTS = 8192
"""Points of each problem that k-means++ draws its seeds from."""
MAX_PLUS_PLUS = 1024
"""Most centroids seeded by k-means++, one pass over the seeding points each; more are drawn as plain points."""


def seed_centroids(
    points: torch.Tensor, num_centroids: int, *, weights: torch.Tensor | None = None, seed: int = 0
) -> torch.Tensor:
    """Return first centroids `[P, K, d]`: k-means++ on a random subset of at most 8192 points of each problem.

    More than 1024 centroids are drawn as plain points, without replacement where there are enough. The draws happen on
    the CPU, so a GPU starts from the same points.

    Args:
        points: float32 `[P, N, d]`.
        num_centroids: K.
        weights: float32 `[P, N]` or None.
        seed: seed of the draws.
    """
    problems, count, _ = points.shape
    generator = torch.Generator().manual_seed(seed)
    subset = torch.randperm(count, generator=generator)[: max(SEEDING_POINTS, num_centroids)]
    index = subset.to(points.device)
    candidates = points.index_select(1, index).cpu()
    mass = torch.ones(problems, len(subset)) if weights is None else weights.index_select(1, index).float().cpu()
    # The points of the subset may all have weight 0; they are drawn alike then.
    mass = torch.where(mass.sum(-1, keepdim=True) > 0, mass, torch.ones_like(mass))
    draw = _plain_points if num_centroids > MAX_PLUS_PLUS else _plus_plus
    return draw(candidates, mass, num_centroids, generator).to(points.device)


def _plain_points(
    candidates: torch.Tensor, mass: torch.Tensor, num_centroids: int, generator: torch.Generator
) -> torch.Tensor:
    """Draw points `[P, K, d]` of `candidates` `[P, n, d]` by their mass `[P, n]`, without replacement if `n >= K`."""
    order = torch.rand(mass.shape, generator=generator).log().div(mass.clamp_min(1e-30)).argsort(descending=True)
    chosen = order[:, torch.arange(num_centroids) % order.shape[1]]
    return candidates.gather(1, chosen.unsqueeze(-1).expand(-1, -1, candidates.shape[-1]))


def _plus_plus(
    candidates: torch.Tensor, mass: torch.Tensor, num_centroids: int, generator: torch.Generator
) -> torch.Tensor:
    """Draw points `[P, K, d]` of `candidates` `[P, n, d]` by mass `[P, n]` times squared distance to those drawn."""
    problems, count, dim = candidates.shape
    draws = torch.rand(num_centroids, problems, 1, generator=generator)
    centroids = torch.empty(problems, num_centroids, dim)
    distance = torch.ones(problems, count)
    for k in range(num_centroids):
        potential = (distance * mass).double()
        # Fewer distinct points than centroids: every potential is 0 and any point will do.
        potential = torch.where(potential.sum(-1, keepdim=True) > 0, potential, mass.double())
        total = potential.cumsum(-1)
        pick = torch.searchsorted(total, draws[k] * total[:, -1:], right=True).clamp_max(count - 1)
        centroids[:, k] = candidates.gather(1, pick.unsqueeze(-1).expand(-1, -1, dim)).squeeze(1)
        new = (candidates - centroids[:, k : k + 1]).square().sum(-1)
        distance = new if k == 0 else torch.minimum(distance, new)
    return centroids
