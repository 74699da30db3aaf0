# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Copied, pickled, saved and loaded models that were enabled, and models that share a config."""

import copy
import pickle

import pytest
import torch
import transformers
from enabled_models import OPTIONS, save_codebook, state, used_cache
from tiny_codebooks import random_codebook
from tiny_models import tiny_config, tiny_model
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from vecinfer_hf import (
    VecInferCache,
    disable,
    enable,
)


@pytest.fixture
def directory(tmp_path):
    """A saved codebook for the tiny llama, made for a window of 32 tokens."""
    return save_codebook(tmp_path / "codebook")


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_an_enabled_model_is_enabled_by_itself(how):
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    before = state(model)
    try:
        COPIES[how](model)
    except (AttributeError, pickle.PicklingError) as error:
        pytest.skip(f"this transformers cannot {how} a model that is not enabled ({error})")
    enable(model, random_codebook(model.config), **OPTIONS)
    copied = COPIES[how](model)
    caches = [used_cache(each) for each in (model, copied)]
    assert [cache.layers[0].residual_length for cache in caches] == [16, 16]
    assert torch.equal(caches[0].layers[0].buffers.codes, caches[1].layers[0].buffers.codes)
    disable(copied)
    assert state(copied) == before
    assert model.config._attn_implementation == "vecinfer"
    assert isinstance(used_cache(model), VecInferCache)
    disable(model)
    assert state(model) == before


def test_two_models_may_share_a_config():
    config = tiny_config("llama", attn_implementation="eager")
    one, other = (transformers.LlamaForCausalLM(config).eval() for _ in range(2))
    codebook = random_codebook(config)
    enable(one, codebook, **OPTIONS)
    enable(other, codebook, residual_length=8)
    disable(one)
    assert config._attn_implementation == "eager"
    assert used_cache(other).layers[0].residual_length == 8
    assert type(used_cache(one)) is DynamicCache
    disable(other)
    assert config._attn_implementation == "eager"


def test_a_saved_model_is_enabled_when_loaded_and_disable_really_disables(directory, tmp_path):
    model = enable(tiny_model("llama"), directory, residual_length=16)
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert loaded.config._attn_implementation != "vecinfer"
    assert used_cache(loaded).layers[0].residual_length == 16
    assert loaded.config._attn_implementation != "vecinfer"
    enable(loaded, directory, residual_length=8)
    assert used_cache(loaded).layers[0].residual_length == 8
    disable(loaded)
    assert loaded.generation_config.cache_config is None
    assert type(used_cache(loaded)) is DynamicCache
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert type(used_cache(disable(again))) is DynamicCache


def test_a_codebook_without_a_name_is_saved_with_the_model(tmp_path):
    codebook = random_codebook(tiny_config("llama"))
    enable(tiny_model("llama"), codebook).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    found = used_cache(loaded).codebook
    for index, layer in codebook.layers.items():
        assert torch.equal(found.layers[index].key_centroids, layer.key_centroids)
