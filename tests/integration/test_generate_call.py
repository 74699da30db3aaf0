# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""generate_call.py: a call makes the cache that was asked for, and leaves the model as it was."""

import copy
import json

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_config, tiny_inputs, tiny_model
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicCache, StaticCache

from vecinfer_hf import (
    CodebookError,
    ConfigError,
    UnsupportedCallError,
    VecInferCache,
    VecInferConfig,
    VecInferError,
    enable,
)
from vecinfer_hf.integration import generate_call
from vecinfer_hf.integration.compat import CACHE_ARGUMENT, cache_argument, returned_cache


OPTIONS = {"residual_length": 16, "ops_backend": "reference"}
ATTENTIONS = ["eager", "sdpa", "flex_attention", "vecinfer"]


@pytest.fixture
def directory(tmp_path):
    """A saved random codebook for the tiny llama."""
    random_codebook(tiny_config("llama")).save_pretrained(tmp_path / "codebook")
    return str(tmp_path / "codebook")


def run(model, length=40, tokens=5, **kwargs):
    kwargs = {"max_new_tokens": tokens, "do_sample": False, "return_dict_in_generate": True, **kwargs}
    return model.generate(tiny_inputs(1, length), **kwargs)


def used(model, **kwargs):
    return returned_cache(run(model, **kwargs))


CALLS = {
    "a dictionary": lambda model, name: {
        "cache_implementation": "vecinfer",
        "cache_config": {"codebook": name, **OPTIONS},
    },
    "a dictionary with its backend": lambda model, name: {
        "cache_config": {"backend": "vecinfer", "codebook": name, **OPTIONS}
    },
    "a VecInferConfig": lambda model, name: {"cache_config": VecInferConfig(name, **OPTIONS)},
    "both names": lambda model, name: {
        "cache_implementation": "vecinfer",
        "cache_config": VecInferConfig(name, **OPTIONS),
    },
    "quantized": lambda model, name: {
        "cache_implementation": "quantized",
        "cache_config": VecInferConfig(name, **OPTIONS),
    },
    "a generation config": lambda model, name: {
        "generation_config": GenerationConfig(
            cache_config=VecInferConfig(name, **OPTIONS),
            pad_token_id=0,
            do_sample=False,
            max_new_tokens=5,
            return_dict_in_generate=True,
        )
    },
    "static": lambda model, name: {"cache_config": VecInferConfig(name, static=True, **OPTIONS)},
    "a cache of the model": lambda model, name: cache_argument(VecInferCache(model, name, **OPTIONS)),
    "a cache of the config": lambda model, name: cache_argument(VecInferCache(model.config, name, **OPTIONS)),
    "a cache with a config": lambda model, name: cache_argument(VecInferCache(model, VecInferConfig(name, **OPTIONS))),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_call_uses_codes_and_leaves_the_model_as_it_was(name, attention, directory):
    model = tiny_model("llama")
    model.set_attn_implementation(attention)
    run(model, cache_implementation="static")  # transformers keeps the size of a static cache on the model
    before = sorted(vars(model)), model.config.to_json_string(), model.generation_config.to_json_string()
    kwargs = CALLS[name](model, directory)
    if "generation_config" in kwargs:
        output = model.generate(tiny_inputs(1, 40), **kwargs)
    else:
        output = run(model, **kwargs)
    assert isinstance(returned_cache(output), VecInferCache)
    assert returned_cache(output).layers[0].residual_length == 16
    assert model.config._attn_implementation == attention
    assert before == (
        sorted(vars(model)),
        model.config.to_json_string(),
        model.generation_config.to_json_string(),
    )
    reference = run(enable(tiny_model("llama"), directory, **OPTIONS))
    assert torch.equal(output.sequences, reference.sequences)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attentions_are_there_again_after_one_call(attention, directory):
    model = tiny_model("llama")
    model.set_attn_implementation(attention)
    run(model, cache_implementation="vecinfer", cache_config={"codebook": directory, **OPTIONS})
    assert model.config._attn_implementation == attention
    if attention == "eager":
        with torch.no_grad():
            assert len(model(tiny_inputs(1, 8), output_attentions=True).attentions) == 2


class Broken(LogitsProcessor):
    """Ends a generation in its third step."""

    def __init__(self, error):
        self.error, self.steps = error, 0

    def __call__(self, input_ids, scores):
        self.steps += 1
        if self.steps == 3:
            raise self.error
        return scores


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), torch.OutOfMemoryError("x")], ids=repr)
def test_a_call_that_fails_leaves_the_model_as_it_was(error, directory):
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    expected = run(model).sequences
    for kwargs in (CALLS["a VecInferConfig"](model, directory), CALLS["a cache of the model"](model, directory)):
        with pytest.raises(type(error)):
            run(model, **kwargs, logits_processor=LogitsProcessorList([Broken(error)]))
        assert model.config._attn_implementation == "eager"
        assert generate_call._current.get() is None
    assert torch.equal(run(model).sequences, expected)


def test_the_implementation_alone_means_auto(directory):
    model = tiny_model("llama")
    with pytest.raises(CodebookError, match='codebook="auto" found none'):
        run(model, cache_implementation="vecinfer")
    assert model.config._attn_implementation == "sdpa"
    enable(model, directory, **OPTIONS)
    assert used(model, cache_implementation="vecinfer").layers[0].residual_length == 16


def test_a_call_may_change_single_options_of_an_enabled_model(directory):
    model = enable(tiny_model("llama"), directory, **OPTIONS)
    cache = used(model, cache_config={"residual_length": 8})
    assert (cache.layers[0].residual_length, cache.codebook) == (8, model._vecinfer.codebook)
    assert used(model).layers[0].residual_length == 16


def test_a_keyword_gets_what_it_names_on_an_enabled_model(directory):
    model = enable(tiny_model("llama"), directory, **OPTIONS)
    assert type(used(model, cache_implementation="dynamic")) is DynamicCache
    assert isinstance(used(model, cache_implementation="static"), StaticCache)
    assert returned_cache(run(model, use_cache=False)) is None
    assert isinstance(used(model), VecInferCache)


def test_a_generation_config_with_a_vecinfer_config_is_saved_and_loaded(directory, tmp_path):
    config = VecInferConfig(directory, **OPTIONS)
    generation = GenerationConfig(
        cache_config=config, pad_token_id=0, do_sample=False, max_new_tokens=5, return_dict_in_generate=True
    )
    assert json.loads(repr(generation).split(" ", 1)[1])["cache_config"]["residual_length"] == 16
    generation.save_pretrained(tmp_path)
    loaded = GenerationConfig.from_pretrained(tmp_path)
    model = tiny_model("llama")
    for each in (generation, loaded, copy.deepcopy(generation)):
        cache = returned_cache(model.generate(tiny_inputs(1, 40), each))
        assert cache.layers[0].residual_length == 16
    assert generation.cache_config == config


def test_a_generation_of_ones_own_is_watched_too(directory):
    model = tiny_model("llama")
    model.set_attn_implementation("eager")

    def greedy(model, input_ids, generation_config=None, logits_processor=None, stopping_criteria=None, **kwargs):
        cache = kwargs[CACHE_ARGUMENT]
        with torch.no_grad():
            model(input_ids, **cache_argument(cache))
        assert isinstance(cache, VecInferCache)
        return input_ids

    ids = tiny_inputs(1, 40)
    asks = CALLS["a VecInferConfig"](model, directory)
    assert torch.equal(model.generate(ids, custom_generate=greedy, max_new_tokens=5, **asks), ids)
    assert model.config._attn_implementation == "eager"


def test_preparing_a_cache_outside_of_generate_needs_the_attention(directory):
    """As a model does that has a generate of its own."""
    model = tiny_model("llama")
    config = GenerationConfig(cache_config=VecInferConfig(directory, **OPTIONS))
    arguments = (copy.deepcopy(config), {}, None, 1, 50)
    with pytest.raises(UnsupportedCallError, match=r"cannot switch the attention.*\(it is \"sdpa\"\).*enable"):
        model._prepare_cache_for_generation(*arguments)
    enable(model, directory, **OPTIONS)
    model_kwargs = {}
    model._prepare_cache_for_generation(GenerationConfig(), model_kwargs, None, 1, 50)
    assert isinstance(model_kwargs[CACHE_ARGUMENT], VecInferCache)


def test_cache_and_model_are_bound_where_they_meet(directory, monkeypatch):
    bound = []
    monkeypatch.setattr(VecInferCache, "bind", lambda cache, model: bound.append((cache, model)), raising=False)
    model = tiny_model("llama")
    made = used(model, **CALLS["a VecInferConfig"](model, directory))
    given = CALLS["a cache of the config"](model, directory)
    run(model, **given)
    assert bound == [(made, model), (given[CACHE_ARGUMENT], model)]


WRONG = {
    "typo": {"cache_config": {"residual_lenght": 3}},
    "contradiction": {"cache_config": {"key_bits": 4}},
    "implementation": {"cache_config": VecInferConfig("x"), "cache_implementation": "static"},
    "cache_config": {"cache_config": 3, "cache_implementation": "vecinfer"},
    "chunks": {"cache_config": {"static": True}, "prefill_chunk_size": 1},
}


@pytest.mark.parametrize("case", WRONG)
def test_every_error_is_one_of_ours(case, directory):
    model = enable(tiny_model("llama"), directory, **OPTIONS)
    with pytest.raises(VecInferError) as raised:
        run(model, **WRONG[case])
    assert isinstance(raised.value, ConfigError if case != "chunks" else UnsupportedCallError)
    assert isinstance(used(model), VecInferCache)
