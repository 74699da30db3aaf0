# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`disable` brings back exactly what was there before `enable`, and a refused `enable` changes nothing."""

import copy

import pytest
import torch
from edge_cases import CACHE_NAMES, cache_of, enabled, greedy, new_cache, refused, tiny_model
from tiny_models import tiny_inputs

import vecinfer_hf
from vecinfer_hf import VecInferCache, VecInferConfig


pytestmark = pytest.mark.sampled(4)


def state_of(model):
    """Everything that `enable` may have changed on a model."""
    config = model.generation_config
    return {
        "attention": model.config._attn_implementation,
        "cache_implementation": config.cache_implementation,
        "cache_config": copy.deepcopy(config.cache_config),
        "generation_config": config.to_dict(),
        "attributes": {name for name in vars(model) if "vecinfer" in name},
        "model config": model.config.to_dict(),
    }


@pytest.mark.parametrize("named", CACHE_NAMES[:4])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("times", [1, 2])
def test_disable_brings_back_exactly_what_was_there(named, family, times):
    model = tiny_model(family)
    model.generation_config.cache_implementation = named
    before = state_of(model)
    for _ in range(times):
        enabled(model)
    greedy(model, tiny_inputs(1, 30))
    vecinfer_hf.disable(model)
    assert state_of(model) == before


def test_disable_brings_back_a_quantized_cache_of_transformers():
    model = tiny_model("llama")
    model.generation_config.cache_config = {"backend": "quanto", "nbits": 4}
    before = state_of(model)
    enabled(model)
    vecinfer_hf.disable(model)
    assert state_of(model) == before


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_disable_brings_back_the_attention(attention):
    model = tiny_model("llama", attn_implementation=attention)
    enabled(model)
    greedy(model, tiny_inputs(1, 30), new_cache(model.config))
    vecinfer_hf.disable(model)
    assert model.config._attn_implementation == attention


def test_disable_of_a_model_that_was_never_enabled_changes_nothing():
    model = tiny_model("llama", attn_implementation="eager")
    before = state_of(model)
    vecinfer_hf.disable(model)
    assert state_of(model) == before


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_disable_of_a_model_that_was_made_with_vecinfer_attention(family):
    """Not every model has SDPA to go back to. "vecinfer" is what was there; it serves transformers' caches as well."""
    model = tiny_model(family, attn_implementation="vecinfer")
    want = greedy(tiny_model(family), tiny_inputs(1, 30))
    enabled(model)
    vecinfer_hf.disable(model)
    assert model.config._attn_implementation in ("vecinfer", "sdpa", "eager")
    assert not isinstance(cache_of(model), VecInferCache)
    assert torch.equal(greedy(model, tiny_inputs(1, 30)), want)


def test_disable_after_the_attention_was_changed_by_hand():
    model = tiny_model("llama", attn_implementation="sdpa")
    enabled(model)
    model.set_attn_implementation("eager")
    vecinfer_hf.disable(model)
    assert model.config._attn_implementation == "eager"
    assert not isinstance(cache_of(model), VecInferCache)


def test_an_enable_that_is_refused_changes_nothing(tmp_path):
    model = tiny_model("llama")
    before = state_of(model)
    refused(lambda: vecinfer_hf.enable(model, VecInferConfig(codebook=str(tmp_path / "nothing"))))
    assert state_of(model) == before


@pytest.mark.parametrize("how", ["deepcopy", "save and load"])
def test_a_copy_of_an_enabled_model_is_enabled(how, tmp_path):
    from transformers import AutoModelForCausalLM

    model = enabled(tiny_model("llama"))
    if how == "deepcopy":
        twin = copy.deepcopy(model)
        vecinfer_hf.disable(twin)
        assert not isinstance(cache_of(twin), VecInferCache)
        twin = copy.deepcopy(model)
    else:
        model.save_pretrained(tmp_path)
        twin = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(cache_of(twin), VecInferCache)
    assert isinstance(cache_of(model), VecInferCache)


class Wrapper(torch.nn.Module):
    """A model around a model, as PEFT's: what it does not have itself it takes from the model inside."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model
        self.config = model.config
        self.generation_config = model.generation_config

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base_model, name)

    def get_base_model(self):
        return self.base_model

    def generate(self, *args, **kwargs):
        return self.base_model.generate(*args, **kwargs)


@pytest.mark.parametrize("order", ["before", "after", "inside"])
def test_a_wrapped_model_is_enabled_and_disabled(order):
    """Enabled before it was wrapped, through the wrapper, or inside it; disabled through the wrapper."""
    model = tiny_model("llama", attn_implementation="eager")
    before = state_of(model)
    if order == "before":
        enabled(model)
    wrapped = Wrapper(model)
    if order != "before":
        enabled(wrapped if order == "after" else wrapped.get_base_model())
    assert isinstance(cache_of(wrapped), VecInferCache)
    vecinfer_hf.disable(wrapped)
    assert not isinstance(cache_of(wrapped), VecInferCache)
    assert state_of(model)["attention"] == before["attention"]
    assert state_of(model)["cache_config"] == before["cache_config"]
    assert state_of(model)["attributes"] == before["attributes"]


def test_continuous_batching_works_after_disable():
    model = enabled(tiny_model("llama"))
    greedy(model, tiny_inputs(1, 20))
    vecinfer_hf.disable(model)
    assert model.config._attn_implementation == "sdpa"
