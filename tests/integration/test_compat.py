# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""compat.py: the name that this transformers gives a cache, and the older one where it still takes that."""

import inspect

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import FAMILIES, tiny_inputs, tiny_model

from vecinfer_hf import VecInferCache
from vecinfer_hf.integration.compat import CACHE_ARGUMENT, cache_argument, returned_cache


def new_cache(model):
    return VecInferCache(model.config, random_codebook(model.config), residual_length=8)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_and_returns_a_cache_under_the_name(family):
    model = tiny_model(family)
    model.set_attn_implementation("vecinfer")
    assert CACHE_ARGUMENT in inspect.signature(model.forward).parameters
    assert CACHE_ARGUMENT in inspect.signature(model.base_model.forward).parameters
    cache = new_cache(model)
    with torch.no_grad():
        output = model(tiny_inputs(1, 20), **cache_argument(cache))
    assert returned_cache(output) is cache
    assert cache.get_seq_length() == 20


def test_generate_takes_and_returns_it_and_without_a_cache_there_is_none():
    model, options = tiny_model("llama"), {"max_new_tokens": 3, "return_dict_in_generate": True}
    cache = new_cache(model)
    assert returned_cache(model.generate(tiny_inputs(1, 20), **options, **cache_argument(cache))) is cache
    assert returned_cache(model.generate(tiny_inputs(1, 20), **options, use_cache=False)) is None


@pytest.mark.skipif(CACHE_ARGUMENT == "past_key_values", reason="this transformers has only the older name")
def test_the_older_name_gives_the_same_tokens_with_transformers_own_warning():
    model, ids = tiny_model("llama"), tiny_inputs(1, 40)
    options = {"max_new_tokens": 30, "do_sample": False}
    expected = model.generate(ids, **options, **cache_argument(new_cache(model)))
    with pytest.warns(FutureWarning, match="`past_key_values` is deprecated"):
        tokens = model.generate(ids, **options, past_key_values=new_cache(model))
    assert torch.equal(tokens, expected)
    model.set_attn_implementation("vecinfer")
    with torch.no_grad():
        expected = model(ids, **cache_argument(new_cache(model))).logits
        with pytest.warns(FutureWarning, match="`past_key_values` is deprecated"):
            assert torch.equal(model(ids, past_key_values=new_cache(model)).logits, expected)
