# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Batched k-means: many independent problems at once, seeded, on CPU or GPU, and the rounding of centroids to int8.

Owns clustering only. Which vectors are clustered is calibration's business, the nearest-centroid code quantizer.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


SEEDING_POINTS = 8192
"""Points of each problem that k-means++ draws its seeds from."""
MAX_PLUS_PLUS = 1024
"""Most centroids seeded by k-means++, one pass over the seeding points each; more are drawn as plain points."""
_CPU_CHUNK = 4096
_GPU_SCORES = 1 << 27


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

    Memory beyond the points is bounded: distances are formed for 4096 points (CPU) or 2**27 scores (GPU) at a time.

    Args:
        points: float32 `[P, N, d]`.
        num_centroids: K, centroids per problem. Fewer points than centroids are allowed; the spare centroids repeat
            points.
        weights: float32 `[P, N]`, not negative, at least one positive in each problem; default all equal.
        num_iterations: updates of the centroids.
        seed: seed of the first centroids.
        initial: float32 `[P, K, d]`, first centroids, instead of seeding.
        progress: called with 1 after each problem and iteration (with the number of problems on a GPU).

    Returns:
        A `KMeansResult`.

    Raises:
        ValueError: for points that are not `[P, N, d]`, empty, or not finite, and for weights that do not fit them.
    """
    _check(points, num_centroids, weights)
    if initial is None:
        initial = seed_centroids(points, num_centroids, weights=weights, seed=seed)
    # On a CPU one problem at a time stays in the cache; on a GPU all problems fill the device.
    groups = range(points.shape[0]) if points.device.type == "cpu" else [slice(None)]
    results = []
    for group in groups:
        part = slice(group, group + 1) if isinstance(group, int) else group
        part_weights = None if weights is None else weights[part]
        results.append(_lloyd(points[part], initial[part].clone(), part_weights, num_iterations, progress))
    return KMeansResult(
        torch.cat([result.centroids for result in results]),
        torch.cat([result.errors for result in results], dim=1),
        torch.cat([result.num_reseeded for result in results], dim=1),
    )


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
    problems, count, dim = points.shape
    generator = torch.Generator().manual_seed(seed)
    subset = torch.randperm(count, generator=generator)[: max(SEEDING_POINTS, num_centroids)]
    index = subset.to(points.device)
    candidates = points.index_select(1, index).cpu()
    mass = torch.ones(problems, len(subset)) if weights is None else weights.index_select(1, index).float().cpu()
    # A subset whose points all weigh nothing would leave nothing to draw.
    mass = torch.where(mass.sum(-1, keepdim=True) > 0, mass, torch.ones_like(mass))
    if num_centroids > MAX_PLUS_PLUS:
        order = torch.rand(mass.shape, generator=generator).log().div(mass.clamp_min(1e-30)).argsort(descending=True)
        chosen = order[:, torch.arange(num_centroids) % order.shape[1]]
        return candidates.gather(1, chosen.unsqueeze(-1).expand(-1, -1, dim)).to(points.device)
    draws = torch.rand(num_centroids, problems, 1, generator=generator)
    centroids = torch.empty(problems, num_centroids, dim)
    distance = torch.ones(problems, len(subset))
    for k in range(num_centroids):
        potential = (distance * mass).double()
        # Fewer distinct points than centroids: every potential is 0 and any point will do.
        potential = torch.where(potential.sum(-1, keepdim=True) > 0, potential, mass.double())
        total = potential.cumsum(-1)
        pick = torch.searchsorted(total, draws[k] * total[:, -1:], right=True).clamp_max(len(subset) - 1)
        centroids[:, k] = candidates.gather(1, pick.unsqueeze(-1).expand(-1, -1, dim)).squeeze(1)
        new = (candidates - centroids[:, k : k + 1]).square().sum(-1)
        distance = new if k == 0 else torch.minimum(distance, new)
    return centroids.to(points.device)


def assign(points: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nearest centroid of every point and the squared distance to it.

    Args:
        points: float32 `[P, N, d]`.
        centroids: float32 `[P, K, d]`.

    Returns:
        int64 `[P, N]` (lowest index on ties) and float32 `[P, N]`.
    """
    problems, count, _ = points.shape
    index = torch.empty(problems, count, dtype=torch.int64, device=points.device)
    score = torch.empty(problems, count, device=points.device)
    bias = -0.5 * centroids.square().sum(-1)
    table = centroids.transpose(1, 2)
    on_cpu = points.device.type == "cpu"
    step = _CPU_CHUNK if on_cpu else max(1, _GPU_SCORES // (problems * centroids.shape[1]))
    for start in range(0, count, step):
        part = slice(start, start + step)
        if on_cpu:
            for p in range(problems):
                # `max` over the last dimension is several times faster than `argmax` on a CPU.
                score[p, part], index[p, part] = torch.addmm(bias[p], points[p, part], table[p]).max(-1)
        else:
            score[:, part], index[:, part] = torch.baddbmm(bias.unsqueeze(1), points[:, part], table).max(-1)
    return index, (points.square().sum(-1) - 2 * score).clamp_min(0)


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

    With several levels, a few rounds then re-fit every level to the points minus the other levels, keeping the codes
    greedy as quantizer.py assigns them; a round that does not help is dropped.

    Args:
        points: float32 `[P, N, d]`.
        num_codes: levels.
        num_centroids: K, per level.
        weights: float32 `[P, N]` or None.
        num_iterations: k-means iterations per level.
        seed: seed of the first centroids.
        progress: as for `kmeans`.
    """
    options = {"weights": weights, "num_iterations": num_iterations, "progress": progress}
    levels, rest = [], points
    for level in range(num_codes):
        levels.append(kmeans(rest, num_centroids, seed=seed + level, **options).centroids)
        rest = rest - _look_up(levels[-1], assign(rest, levels[-1])[0])
    centroids = torch.stack(levels, 1)
    if num_codes == 1:
        return centroids
    codes, error = _encode(points, centroids, weights)
    for _ in range(4):
        trial = centroids.clone()
        for level in range(num_codes):
            others = sum(_look_up(trial[:, i], codes[i]) for i in range(num_codes) if i != level)
            trial[:, level] = _update(points - others, codes[level], weights, trial[:, level])[0]
        trial_codes, trial_error = _encode(points, trial, weights)
        better = trial_error < error
        centroids = torch.where(better.view(-1, 1, 1, 1), trial, centroids)
        codes = [torch.where(better.unsqueeze(1), new, old) for new, old in zip(trial_codes, codes, strict=True)]
        error = torch.where(better, trial_error, error)
    return centroids


def _check(points: torch.Tensor, num_centroids: int, weights: torch.Tensor | None) -> None:
    if points.dim() != 3 or 0 in points.shape:
        raise ValueError(f"points have shape {tuple(points.shape)}; k-means needs [problems, points, dim], none 0.")
    if num_centroids < 1:
        raise ValueError(f"num_centroids is {num_centroids}; it must be at least 1.")
    if not torch.isfinite(points).all():
        raise ValueError("points hold NaN or Inf; check the states they come from.")
    if weights is not None:
        if weights.shape != points.shape[:2]:
            raise ValueError(f"weights have shape {tuple(weights.shape)}, the points need {tuple(points.shape[:2])}.")
        if not torch.isfinite(weights).all() or (weights < 0).any() or (weights.sum(-1) <= 0).any():
            raise ValueError("weights must be finite and not negative, with at least one positive in each problem.")


def _lloyd(points, centroids, weights, num_iterations, progress) -> KMeansResult:
    errors, reseeded = [], []
    mass = None if weights is None else weights.double().sum(-1)
    for _ in range(num_iterations):
        codes, distance = assign(points, centroids)
        weighted = distance if weights is None else distance * weights
        errors.append(weighted.double().mean(-1) if mass is None else weighted.double().sum(-1) / mass)
        centroids, counts = _update(points, codes, weights, centroids)
        empty = counts <= 0
        reseeded.append(empty.sum(-1))
        if empty.any():
            centroids = _reseed(points, weighted, centroids, empty)
        if progress is not None:
            progress(points.shape[0])
    return KMeansResult(centroids, torch.stack(errors), torch.stack(reseeded))


def _update(points, codes, weights, centroids) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted mean of each cluster's points, and the clusters' weights `[P, K]`; empty ones keep their centroid."""
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
        step = max(1, _GPU_SCORES // (problems * size))
        for start in range(0, count, step):
            part = slice(start, start + step)
            one_hot = codes[:, part].unsqueeze(1) == torch.arange(size, device=points.device).view(1, -1, 1)
            sums += one_hot.float() @ columns[:, part]
    counts = sums[..., -1]
    means = sums[..., :-1] / counts.clamp_min(1e-30).unsqueeze(-1)
    return torch.where((counts > 0).unsqueeze(-1), means, centroids), counts


def _reseed(points, distance, centroids, empty) -> torch.Tensor:
    """Put empty clusters on the points that are served worst."""
    most = int(empty.sum(-1).max())
    worst = distance.topk(min(most, points.shape[1]), dim=-1).indices
    for p in empty.any(-1).nonzero().flatten().tolist():
        places = empty[p].nonzero().flatten()
        centroids[p, places] = points[p, worst[p, torch.arange(len(places), device=points.device) % worst.shape[1]]]
    return centroids


def _look_up(centroids: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    return centroids.gather(1, codes.unsqueeze(-1).expand(-1, -1, centroids.shape[-1]))


def _encode(points, centroids, weights) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Greedy codes of every level and the weighted mean squared error `[P]`."""
    codes, rest = [], points
    for level in range(centroids.shape[1]):
        codes.append(assign(rest, centroids[:, level])[0])
        rest = rest - _look_up(centroids[:, level], codes[-1])
    distance = rest.square().sum(-1)
    if weights is None:
        return codes, distance.double().mean(-1)
    return codes, (distance * weights).double().sum(-1) / weights.double().sum(-1)
