# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""k-means: known clusters are found, errors fall, seeds decide everything, nothing degenerate becomes NaN."""

import pytest
import torch

from vecinfer_hf.errors import ConfigError
from vecinfer_hf.quantization.kmeans import kmeans
from vecinfer_hf.quantization.seeding import seed_centroids


def clusters(problems=3, size=16, dim=4, per_cluster=20, spread=0.0, seed=0):
    """Points around centres that lie at least 10 apart in the first coordinate: `[P, size * per_cluster, dim]`."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(problems, size, dim, generator=generator)
    centres[..., 0] = torch.arange(size) * 11.0
    points = centres.repeat_interleave(per_cluster, dim=1)
    return centres, points + spread * torch.randn(points.shape, generator=generator)


def squared_distance(points, centroids):
    """Squared distance of every point to its nearest centroid, float64 `[P, N]`."""
    return torch.cdist(points.double(), centroids.double()).square().amin(-1)


def test_separate_clusters_are_found_exactly():
    centres, points = clusters()
    result = kmeans(points, 16, num_iterations=5)
    # k-means++ never draws a cluster twice here: a drawn cluster has no distance left.
    found = result.centroids.gather(1, result.centroids[..., :1].argsort(dim=1).expand(-1, -1, 4))
    # A mean of 20 equal float32 values is off by at most a few roundings of values below 2**8.
    torch.testing.assert_close(found, centres, rtol=0, atol=2**8 * 2**-23)
    # The error is formed as |x|^2 - 2 x.c + |c|^2, terms of up to 2**15, each rounded.
    assert result.errors[-1].max() <= 2**15 * 2**-21


def test_errors_never_rise_and_beat_the_seeding():
    points = torch.randn(4, 3000, 4)
    result = kmeans(points, 64, num_iterations=15)
    assert result.errors.shape == (15, 4)
    rise = (result.errors[1:] - result.errors[:-1]) / result.errors[:-1]
    assert rise.max() <= 1e-6
    assert (result.errors[-1] < 0.9 * result.errors[0]).all()
    assert (squared_distance(points, result.centroids).mean(-1) <= result.errors[-1] * (1 + 1e-6)).all()


def test_same_seed_same_bits_other_seed_other_bits():
    points = torch.randn(2, 2000, 8)
    first, second, other = (kmeans(points, 32, num_iterations=4, seed=seed).centroids for seed in (7, 7, 8))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_problems_are_independent():
    points = torch.randn(3, 1000, 4)
    initial = seed_centroids(points, 16)
    together = kmeans(points, 16, initial=initial).centroids
    for p in range(3):
        alone = kmeans(points[p : p + 1], 16, initial=initial[p : p + 1]).centroids
        assert torch.equal(together[p], alone[0])


def test_weights_move_the_centroids():
    points = torch.tensor([[[0.0], [1.0]]])
    result = kmeans(points, 1, weights=torch.tensor([[3.0, 1.0]]), num_iterations=1)
    assert result.centroids.item() == 0.25
    # Before the update the centroid is one of the points, so the other one's weight over the sum is the error.
    assert result.errors.item() in (0.25, 0.75)


def test_points_of_no_weight_do_not_matter():
    points = torch.randn(1, 200, 4)
    weights = (torch.arange(200) < 100).float()[None]
    initial = points[:, :8]
    weighted = kmeans(points, 8, weights=weights, initial=initial).centroids
    torch.testing.assert_close(weighted, kmeans(points[:, :100], 8, initial=initial).centroids, rtol=1e-6, atol=1e-6)


def test_empty_clusters_are_placed_anew():
    _, points = clusters(problems=2, size=8)
    far = torch.full((2, 8, 4), 1e4)
    far[:, 0] = 0.0
    result = kmeans(points, 8, initial=far, num_iterations=20)
    assert result.num_reseeded[0].tolist() == [7, 7]
    assert result.num_reseeded[-1].tolist() == [0, 0]
    assert torch.isfinite(result.centroids).all()
    assert result.centroids.abs().max() < 100


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_points_than_centroids(count):
    points = torch.randn(2, count, 4)
    result = kmeans(points, 8, num_iterations=3)
    assert torch.isfinite(result.centroids).all()
    # Every point is a centroid.
    assert squared_distance(points, result.centroids).max() <= 1e-12


def test_equal_points():
    result = kmeans(torch.ones(1, 50, 2), 4, num_iterations=3)
    assert torch.equal(result.centroids, torch.ones(1, 4, 2))


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        (torch.zeros(2, 3), {}, r"\(2, 3\)"),
        (torch.zeros(1, 0, 4), {}, "none 0"),
        (torch.full((1, 5, 4), float("nan")), {}, "NaN"),
        (torch.zeros(1, 5, 4), {"weights": torch.ones(1, 4)}, r"\(1, 4\)"),
        (torch.zeros(1, 5, 4), {"weights": torch.zeros(1, 5)}, "positive"),
        (torch.zeros(1, 5, 4), {"weights": torch.full((1, 5), -1.0)}, "not negative"),
    ],
)
def test_bad_input_is_refused(points, options, message):
    with pytest.raises(ConfigError, match=message):
        kmeans(points, 2, **options)


def test_no_centroids_are_refused():
    with pytest.raises(ConfigError, match="num_centroids is 0"):
        kmeans(torch.zeros(1, 5, 4), 0)


def test_an_iteration_is_lloyds():
    """One update by plain loops in float64: the nearest centroid, then the weighted mean of its points."""
    points, weights = torch.randn(2, 300, 4), torch.rand(2, 300)
    initial = points[:, :16].clone()
    found = kmeans(points, 16, weights=weights, initial=initial, num_iterations=1).centroids
    for p in range(2):
        codes = torch.cdist(points[p].double(), initial[p].double()).argmin(-1)
        for k in range(16):
            own = weights[p, codes == k].double()
            mean = (points[p, codes == k].double() * own.unsqueeze(1)).sum(0) / own.sum()
            torch.testing.assert_close(found[p, k].double(), mean, rtol=1e-5, atol=1e-5)


def test_progress_counts_problems_and_iterations():
    done = []
    kmeans(torch.randn(3, 50, 4), 4, num_iterations=2, progress=done.append)
    assert sum(done) == 6


@pytest.mark.gpu
def test_a_gpu_repeats_itself_and_agrees_with_the_cpu():
    points = torch.randn(6, 20000, 4)
    first, second = (kmeans(points.cuda(), 64, num_iterations=5) for _ in range(2))
    assert torch.equal(first.centroids, second.centroids)
    cpu = kmeans(points, 64, num_iterations=5)
    # Points between two centroids may go either way, which moves the mean error by far less than this.
    torch.testing.assert_close(first.errors.cpu(), cpu.errors, rtol=1e-3, atol=0)
