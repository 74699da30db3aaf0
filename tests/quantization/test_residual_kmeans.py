# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""residual_kmeans.py: another level cuts the error, and the rounds that fit levels again never raise it."""

import pytest
import torch

from vecinfer_hf.quantization import residual_kmeans as module
from vecinfer_hf.quantization.quantizer import greedy_codes, look_up
from vecinfer_hf.quantization.residual_kmeans import residual_kmeans


def error(points, centroids, weights=None):
    """Weighted mean squared error with greedy codes, float64 `[P]`."""
    codes = greedy_codes(points, centroids)
    sums = sum(look_up(centroids[:, level], codes[:, level]) for level in range(centroids.shape[1]))
    distance = (points - sums).double().square().sum(-1)
    return distance.mean(-1) if weights is None else (distance * weights).sum(-1) / weights.double().sum(-1)


def test_a_second_level_cuts_the_error():
    points = torch.randn(2, 4000, 4)
    one, two = (residual_kmeans(points, levels, 32, num_iterations=8) for levels in (1, 2))
    assert (one.shape, two.shape) == ((2, 1, 32, 4), (2, 2, 32, 4))
    # 5 more bits for 4 Gaussian elements are worth a factor of 2 ** (2 * 5 / 4) = 5.7 at best; half of it is enough.
    assert (error(points, two) < error(points, one) / 2.8).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_fitting_levels_again_helps_and_never_hurts(monkeypatch, weighted):
    points = torch.randn(6, 600, 4)
    weights = torch.rand(6, 600) if weighted else None
    again = residual_kmeans(points, 2, 16, weights=weights, num_iterations=3)
    monkeypatch.setattr(module, "_REFITS", 0)
    first = residual_kmeans(points, 2, 16, weights=weights, num_iterations=3)
    after, before = error(points, again, weights), error(points, first, weights)
    # Both are computed anew here in another order of sums, float32.
    assert (after <= before * (1 + 1e-6)).all()
    assert after.sum() < 0.99 * before.sum()
