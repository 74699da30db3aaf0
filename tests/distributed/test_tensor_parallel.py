# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Two gloo processes run tiny models with transformers' `tp_plan="auto"`, beside the same models in one process."""

import pytest
from processes import run_together


CASES = [("llama", 8), ("qwen3", 4), ("llama", 2)]
OTHERS = [("qwen3", 8), ("llama", 4), ("qwen3", 2)]
"""Families, and key/value heads that two processes share."""
ROUNDING = 1e-5
"""Of the largest logit. Norms and the operators compute in float32 (6e-8); two layers and ten tokens multiply that."""


@pytest.fixture(scope="module")
def found():
    return run_together(2, "some", CASES)


@pytest.fixture(scope="module")
def others():
    return run_together(2, "others", OTHERS)


def check_cache(case, heads, rounding=ROUNDING):
    assert case["heads"] == heads
    assert case["coded"][0] == case["coded"][1] > 50
    assert case["difference"] <= rounding * case["largest"]
    # Lengths and the order of the first tokens are a few bytes that are not halved.
    assert case["nbytes"][0] == pytest.approx(case["nbytes"][1] / 2, rel=0.01)


def check_calibrated(case):
    assert case["heads"] == 4
    check_cache(case["compared"], 2)
    assert case["saved"] <= ROUNDING * case["compared"]["largest"]
    # k-means may go another way from states that differ in the last bit, to centroids as good.
    mine, theirs = case["errors"]
    assert mine == [pytest.approx(error, rel=0.05) for error in theirs]


@pytest.mark.parametrize("kind", ["growing", "static"])
@pytest.mark.parametrize(("family", "heads"), CASES)
def test_two_processes_give_the_logits_of_one(found, family, heads, kind):
    check_cache(found["caches"][f"{family} {heads}"][kind], heads // 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["growing", "static"])
@pytest.mark.parametrize(("family", "heads"), OTHERS)
def test_so_they_do_for_other_shapes(others, family, heads, kind):
    check_cache(others["caches"][f"{family} {heads}"][kind], heads // 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["growing", "static"])
@pytest.mark.parametrize("name", ["mixture", "tied"])
def test_mixtures_of_experts_and_tied_embeddings(others, name, kind):
    check_cache(others[name][kind], 2)


def test_calibration_makes_the_codebook_of_all_heads(found):
    check_calibrated(found["default"])
    assert found["default"]["gradients"] <= 1e-5


@pytest.mark.parametrize("kind", ["growing", "static"])
def test_generate_of_an_enabled_model(found, kind):
    case = found["enabled"][kind]
    assert case["difference"] <= ROUNDING * case["largest"]
    assert case["tokens"][0] == case["tokens"][1]


def test_a_config_given_to_from_pretrained(found):
    assert found["enabled"]["from_pretrained"] == found["enabled"]["growing"]["tokens"][0]


@pytest.mark.parametrize("entry", ["enable", "cache", "calibrate"])
def test_more_processes_than_heads_are_refused_by_name(found, entry):
    sentence = found["refused"][entry]
    assert "2 processes" in sentence
    assert "1 key/value heads of layer 0" in sentence
    assert found["refused"]["unchanged"]


def test_what_every_process_would_plan_by_its_own_clock_is_refused(found):
    assert "in 2 processes" in found["refused"]["make_codebook"]


@pytest.mark.slow
def test_an_online_codebook_is_fitted_to_all_heads(others):
    check_cache(others["online"], 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["query", "refined", "allocated"])
def test_other_recipes_refinement_and_allocation(others, name):
    check_calibrated(others[name])


@pytest.mark.slow
def test_the_fast_recipe_finds_the_same_centroids(others):
    assert others["query"]["codes"] == 0


@pytest.mark.slow
def test_compiled_decode_steps(others):
    assert others["compiled"][0] == others["compiled"][1]


@pytest.mark.slow
def test_single_precision_differs_as_the_default_cache_does(others):
    case = others["float32"]
    assert case["difference"] <= 8 * case["default"]
