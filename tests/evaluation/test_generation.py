# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Agreement of greedy continuations: whole without codes, and the first difference where there is one."""

import pytest
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model

from vecinfer_hf.evaluation import greedy_agreement


@pytest.fixture
def model():
    return tiny_model("llama")


def test_without_codes_the_continuations_are_the_same(model):
    result = greedy_agreement(model, tiny_inputs(1, 30), random_codebook(model.config), 20, residual_length=64)
    assert result.tokens_vecinfer == result.tokens_stock
    assert result.agreement_length == len(result.tokens_stock) == 20
    assert result.prompt_tokens == 30
    assert model.config._attn_implementation == "sdpa"


def test_the_first_difference_ends_the_agreement(model):
    result = greedy_agreement(
        model, tiny_inputs(1, 100), random_codebook(model.config), 60, residual_length=1, sink_length=0
    )
    stock, vecinfer, length = result.tokens_stock, result.tokens_vecinfer, result.agreement_length
    # Random centroids: the continuation cannot stay the same for long.
    assert length < 60
    assert stock[:length] == vecinfer[:length]
    assert stock[length] != vecinfer[length]


def test_only_one_prompt_at_a_time(model):
    with pytest.raises(ValueError, match=r"shape \(2, 10\); give one prompt"):
        greedy_agreement(model, tiny_inputs(2, 10), random_codebook(model.config))
