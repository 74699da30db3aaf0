# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Confidence interval of the difference of two shares measured on the same samples. Owns that statistic only."""

from __future__ import annotations

import math
from statistics import NormalDist


_STEPS = 100


def paired_difference(
    only_first: int, only_second: int, samples: int, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return the difference of two paired shares and its score interval (Tango 1998).

    The samples on which both succeed or both fail say nothing about the difference but count in the total. Unlike the
    Wald interval it has a width where no sample differs. Source: T. Tango, Equivalence test and confidence interval
    for the difference in proportions for the paired-sample design, Statistics in Medicine 17 (1998), 891-908.

    Args:
        only_first: samples on which only the first succeeds.
        only_second: samples on which only the second succeeds.
        samples: all samples.
        confidence: coverage asked for.

    Returns:
        `(first - second, low, high)`, shares between -1 and 1.

    Raises:
        ValueError: for counts that cannot be.
    """
    if samples < 1 or only_first < 0 or only_second < 0 or only_first + only_second > samples:
        raise ValueError(
            f"{only_first} and {only_second} differing samples of {samples} are impossible; counts must be at least 0 "
            "and their sum at most the number of samples, which must be positive."
        )
    difference = (only_first - only_second) / samples
    limit = NormalDist().inv_cdf(0.5 + confidence / 2)

    def outside(delta: float) -> bool:
        """Whether the score test rejects this difference."""
        total = -only_first - only_second + (2 * samples - only_first + only_second) * delta
        constant = -only_second * delta * (1 - delta)
        # The likelihood's estimate of the second cell under this difference.
        cell = (math.sqrt(max(0.0, total**2 - 8 * samples * constant)) - total) / (4 * samples)
        variance = samples * (2 * cell + delta * (1 - delta))
        distance = abs(only_first - only_second - samples * delta)
        return distance > limit * math.sqrt(max(variance, 0.0))

    def bound(end: float) -> float:
        inside, beyond = difference, end
        if not outside(end):
            return end
        for _ in range(_STEPS):
            middle = (inside + beyond) / 2
            inside, beyond = (inside, middle) if outside(middle) else (middle, beyond)
        return inside

    return difference, bound(-1.0), bound(1.0)
