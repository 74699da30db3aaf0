# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The paired interval: against a published table, its closed form without differences, and its exact coverage."""

import math

import pytest

from examples.research.intervals import paired_difference


Z = 1.959963985


def test_a_published_example():
    # Airway hyper-responsiveness before and after transplantation, 1 and 7 discordant pairs of 21: the score interval
    # given by Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014), 2850-2875.
    difference, low, high = paired_difference(1, 7, 21)
    assert (round(difference, 3), round(low, 3), round(high, 3)) == (-0.286, -0.517, -0.026)


def test_it_turns_round_with_its_sides():
    difference, low, high = paired_difference(9, 4, 120)
    assert paired_difference(4, 9, 120) == pytest.approx((-difference, -high, -low))


@pytest.mark.parametrize("samples", [1, 20, 500])
def test_without_differing_samples_it_has_the_width_of_the_score_test(samples):
    # The statistic is then n d / sqrt(n d (1 - d)) = z, so d = z^2 / (n + z^2).
    limit = Z**2 / (samples + Z**2)
    assert paired_difference(0, 0, samples) == pytest.approx((0, -limit, limit), abs=1e-9)


def test_the_ends_of_the_range():
    assert paired_difference(30, 0, 30)[::2] == (1, 1)
    assert paired_difference(0, 30, 30)[:2] == (-1, -1)


@pytest.mark.parametrize(("first", "second"), [(0.1, 0.05), (0.02, 0.02), (0.3, 0.1)])
def test_it_covers_the_truth_about_as_often_as_it_says(first, second):
    samples, covered, total = 60, 0.0, 0.0
    for only_first in range(samples + 1):
        for only_second in range(samples + 1 - only_first):
            rest = samples - only_first - only_second
            ways = math.comb(samples, only_first) * math.comb(samples - only_first, only_second)
            chance = ways * first**only_first * second**only_second * (1 - first - second) ** rest
            total += chance
            if chance > 1e-9:
                _, low, high = paired_difference(only_first, only_second, samples)
                covered += chance * (low <= first - second <= high)
    assert total == pytest.approx(1)
    # Coverage of score intervals varies with the truth, by a few hundredths at 60 samples; Wald's falls below 0.9.
    assert 0.93 < covered <= 1


@pytest.mark.parametrize("counts", [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="are impossible"):
        paired_difference(*counts)
