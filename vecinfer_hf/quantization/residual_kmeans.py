# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Centroids of several additive levels (residual quantization), each level clustered by k-means."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .kmeans import cluster_means, kmeans, mean_error
from .quantizer import greedy_codes, look_up, nearest_centroids


_REFITS = 4
"""Rounds that fit every level again to the points minus the other levels."""


def residual_kmeans(
    points: torch.Tensor,
    num_codes: int,
    num_centroids: int,
    *,
    weights: torch.Tensor | None = None,
    num_iterations: int = 20,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Return centroids `[P, num_codes, K, d]` whose sums quantize the points, each level fitted to what is left.

    With several levels, a few rounds then fit every level again to the points minus the other levels, with greedy
    codes as quantizer.py assigns them; a round that does not lower a problem's error is dropped for that problem.

    Args:
        points: float32 `[P, N, d]`.
        num_codes: levels.
        num_centroids: K, per level.
        weights: float32 `[P, N]` or None.
        num_iterations: k-means iterations per level.
        seed: seed of the first centroids.
        progress: as for `kmeans`.

    Raises:
        ConfigError: as `kmeans`.
    """
    options = {"weights": weights, "num_iterations": num_iterations, "progress": progress}
    levels, rest = [], points
    for level in range(num_codes):
        levels.append(kmeans(rest, num_centroids, seed=seed + level, **options).centroids)
        if level + 1 < num_codes:
            rest = rest - look_up(levels[-1], nearest_centroids(rest, levels[-1])[0])
    centroids = torch.stack(levels, 1)
    return centroids if num_codes == 1 else _fitted_again(points, centroids, weights)


def _fitted_again(points: torch.Tensor, centroids: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Return centroids `[P, num_codes, K, d]` after the rounds, for points `[P, N, d]`, weights `[P, N]` or None."""
    num_codes = centroids.shape[1]
    codes = greedy_codes(points, centroids)
    error = mean_error(_squared_distance(points, centroids, codes), weights)
    for _ in range(_REFITS):
        trial = centroids.clone()
        for level in range(num_codes):
            others = sum(look_up(trial[:, i], codes[:, i]) for i in range(num_codes) if i != level)
            trial[:, level] = cluster_means(points - others, codes[:, level], weights, trial[:, level])[0]
        trial_codes = greedy_codes(points, trial)
        trial_error = mean_error(_squared_distance(points, trial, trial_codes), weights)
        better = trial_error < error
        centroids = torch.where(better.view(-1, 1, 1, 1), trial, centroids)
        codes = torch.where(better.view(-1, 1, 1), trial_codes, codes)
        error = torch.where(better, trial_error, error)
    return centroids


def _squared_distance(points: torch.Tensor, centroids: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return the squared distances `[P, N]` of points `[P, N, d]` to the sums of their centroids.

    Args:
        points: float32 `[P, N, d]`.
        centroids: float32 `[P, num_codes, K, d]`.
        codes: int64 `[P, num_codes, N]`.
    """
    rest = points
    for level in range(centroids.shape[1]):
        rest = rest - look_up(centroids[:, level], codes[:, level])
    return rest.square().sum(-1)
