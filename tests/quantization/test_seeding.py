# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""seeding.py: k-means++ spreads its seeds, follows the weights, and survives points that are all alike."""

import pytest
import torch

from vecinfer_hf.quantization.seeding import seed_centroids


def all_are_points(seeds, points):
    return {tuple(row) for row in seeds.tolist()} <= {tuple(row) for row in points.tolist()}


@pytest.mark.parametrize("size", [16, 2048])
def test_seeds_are_points_of_their_problem_and_differ(size):
    points = torch.randn(2, 5000, 4)
    seeds = seed_centroids(points, size)
    assert seeds.shape == (2, size, 4)
    for p in range(2):
        assert seeds[p].unique(dim=0).shape[0] == size
        assert all_are_points(seeds[p], points[p])


def test_seeds_cover_clusters_of_different_sizes():
    """One point in a thousand lies far off: k-means++ always finds it, plain draws hardly ever do."""
    points = torch.randn(8, 1000, 2) * 1e-3
    points[:, 7] = 1e3
    assert (seed_centroids(points, 2).abs().amax((1, 2)) == 1e3).all()


def test_points_without_weight_are_not_drawn():
    points = torch.cat([torch.zeros(1, 50, 2), torch.randn(1, 50, 2) + 10], 1)
    weights = (torch.arange(100) >= 50).float()[None]
    for size in (4, 40):
        assert (seed_centroids(points, size, weights=weights).abs().amax(-1) > 0).all()


def test_a_subset_without_weight_is_drawn_alike():
    weights = torch.zeros(1, 20000)
    weights[0, 0] = 1e-3
    assert torch.isfinite(seed_centroids(torch.randn(1, 20000, 2), 3, weights=weights, seed=1)).all()


def test_the_same_seed_gives_the_same_centroids():
    points = torch.randn(1, 500, 4)
    first, again, other = (seed_centroids(points, 8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_equal_points_and_fewer_points_than_centroids():
    assert torch.equal(seed_centroids(torch.ones(1, 50, 2), 4), torch.ones(1, 4, 2))
    few = torch.randn(1, 3, 2)
    for size in (8, 1500):
        assert all_are_points(seed_centroids(few, size)[0], few[0])
