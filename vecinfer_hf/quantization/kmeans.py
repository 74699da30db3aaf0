# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Batched k-means: many independent problems at once, seeded, weighted, on CPU or GPU.

Owns Lloyd's algorithm. seeding.py owns the first centroids, residual_kmeans.py several additive levels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ..errors import ConfigError
from .quantizer import nearest_centroids
from .seeding import seed_centroids


_ONE_HOT_ELEMENTS = 1 << 27
"""Elements of one-hot codes formed at once on a GPU."""


class KMeansResult(NamedTuple):
    """Centroids and how each iteration went.

    Args:
        centroids: float32 `[P, K, d]`.
        errors: float64 `[iterations, P]`, weighted mean squared distance of the points to the nearest centroid before
            each update; it never rises while no cluster is empty.
        num_reseeded: int64 `[iterations, P]`, clusters that were empty and were placed anew.
    """

    centroids: torch.Tensor
    errors: torch.Tensor
    num_reseeded: torch.Tensor


def kmeans(
    points: torch.Tensor,
    num_centroids: int,
    *,
    weights: torch.Tensor | None = None,
    num_iterations: int = 20,
    seed: int = 0,
    initial: torch.Tensor | None = None,
    progress: Callable[[int], None] | None = None,
) -> KMeansResult:
    """Cluster each problem's points by Lloyd's algorithm; the same seed and device give the same bits.

    Memory beyond the points is bounded: see `nearest_centroids`, and 2**27 one-hot elements on a GPU.

    Args:
        points: float32 `[P, N, d]`.
        num_centroids: K, centroids per problem. Fewer points than centroids are allowed; the spare centroids repeat
            points.
        weights: float32 `[P, N]`, not negative, at least one positive in each problem; default all equal.
        num_iterations: updates of the centroids.
        seed: seed of the first centroids.
        initial: float32 `[P, K, d]`, first centroids, instead of seeding.
        progress: called with 1 after each problem and iteration (with the number of problems on a GPU).

    Raises:
        ConfigError: for points that are not `[P, N, d]`, empty, or not finite, and for weights that do not fit them.
    """
    _check(points, num_centroids, weights)
    if initial is None:
        initial = seed_centroids(points, num_centroids, weights=weights, seed=seed)
    # On a CPU one problem at a time stays in the cache; on a GPU all problems fill the device.
    groups = [slice(p, p + 1) for p in range(len(points))] if points.device.type == "cpu" else [slice(None)]
    results = []
    for group in groups:
        own_weights = None if weights is None else weights[group]
        results.append(_lloyd(points[group], initial[group].clone(), own_weights, num_iterations, progress))
    return KMeansResult(
        torch.cat([result.centroids for result in results]),
        torch.cat([result.errors for result in results], dim=1),
        torch.cat([result.num_reseeded for result in results], dim=1),
    )


def mean_error(distance: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Return the weighted mean float64 `[P]` of squared distances `[P, N]` with weights `[P, N]` or None."""
    if weights is None:
        return distance.double().mean(-1)
    return (distance * weights).double().sum(-1) / weights.double().sum(-1)


def cluster_means(
    points: torch.Tensor, codes: torch.Tensor, weights: torch.Tensor | None, centroids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weighted means of the clusters' points; empty clusters keep their centroid.

    Args:
        points: float32 `[P, N, d]`.
        codes: int64 `[P, N]`, the points' clusters.
        weights: float32 `[P, N]` or None.
        centroids: float32 `[P, K, d]`.

    Returns:
        float32 `[P, K, d]` and the clusters' weights, float32 `[P, K]`.
    """
    problems, count, dim = points.shape
    size = centroids.shape[1]
    mass = torch.ones_like(codes, dtype=torch.float32) if weights is None else weights.float()
    columns = torch.cat([points * mass.unsqueeze(-1), mass.unsqueeze(-1)], -1)
    sums = torch.zeros(problems, size, dim + 1, device=points.device)
    if points.device.type == "cpu":
        for p in range(problems):
            sums[p].index_add_(0, codes[p], columns[p])
    else:
        # Atomic adds on a GPU differ from run to run; a product with the one-hot codes does not.
        step = max(1, _ONE_HOT_ELEMENTS // (problems * size))
        for start in range(0, count, step):
            part = slice(start, start + step)
            one_hot = codes[:, part].unsqueeze(1) == torch.arange(size, device=points.device).view(1, -1, 1)
            sums += one_hot.float() @ columns[:, part]
    counts = sums[..., -1]
    means = sums[..., :-1] / counts.clamp_min(1e-30).unsqueeze(-1)
    return torch.where((counts > 0).unsqueeze(-1), means, centroids), counts


def _check(points: torch.Tensor, num_centroids: int, weights: torch.Tensor | None) -> None:
    """Raise ConfigError unless points `[P, N, d]`, K and weights `[P, N]` can be clustered."""
    if points.device.type == "mps":
        raise ConfigError("points are on mps, which has no float64; make the codebook with the model on the CPU.")
    if points.dim() != 3 or 0 in points.shape:
        raise ConfigError(f"points have shape {tuple(points.shape)}; k-means needs [problems, points, dim], none 0.")
    if num_centroids < 1:
        raise ConfigError(f"num_centroids is {num_centroids}; it must be at least 1.")
    if not torch.isfinite(points).all():
        raise ConfigError("points hold NaN or Inf; check the states they come from.")
    if weights is not None:
        if weights.shape != points.shape[:2]:
            raise ConfigError(f"weights have shape {tuple(weights.shape)}, the points need {tuple(points.shape[:2])}.")
        if not torch.isfinite(weights).all() or (weights < 0).any() or (weights.sum(-1) <= 0).any():
            raise ConfigError("weights must be finite and not negative, with at least one positive in each problem.")


def _lloyd(
    points: torch.Tensor,
    centroids: torch.Tensor,
    weights: torch.Tensor | None,
    num_iterations: int,
    progress: Callable[[int], None] | None,
) -> KMeansResult:
    """Run Lloyd's algorithm on points `[P, N, d]` from centroids `[P, K, d]`, with weights `[P, N]` or None."""
    errors, reseeded = [], []
    square = points.square().sum(-1)
    for _ in range(num_iterations):
        codes, score = nearest_centroids(points, centroids)
        distance = (square - 2 * score).clamp_min(0)
        errors.append(mean_error(distance, weights))
        centroids, counts = cluster_means(points, codes, weights, centroids)
        empty = counts <= 0
        reseeded.append(empty.sum(-1))
        if empty.any():
            _reseed(points, distance if weights is None else distance * weights, centroids, empty)
        if progress is not None:
            progress(points.shape[0])
    return KMeansResult(centroids, torch.stack(errors), torch.stack(reseeded))


def _reseed(points: torch.Tensor, distance: torch.Tensor, centroids: torch.Tensor, empty: torch.Tensor) -> None:
    """Move the centroids of empty clusters to the points with the largest distances, in place.

    Args:
        points: float32 `[P, N, d]`.
        distance: float32 `[P, N]`, weighted squared distances to the nearest centroid.
        centroids: float32 `[P, K, d]`, changed.
        empty: bool `[P, K]`.
    """
    most = int(empty.sum(-1).max())
    worst = distance.topk(min(most, points.shape[1]), dim=-1).indices
    for p in empty.any(-1).nonzero().flatten().tolist():
        places = empty[p].nonzero().flatten()
        centroids[p, places] = points[p, worst[p, torch.arange(len(places), device=points.device) % worst.shape[1]]]
