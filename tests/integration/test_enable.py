# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""enable.py: every form of `enable` does what it says; `disable` and `enabled` bring back exactly what was there."""

import pytest
import torch
import transformers
from enabled_models import OPTIONS, save_codebook, state, used_cache
from tiny_codebooks import random_codebook
from tiny_models import tiny_config, tiny_inputs, tiny_model
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache, StaticCache

from vecinfer_hf import (
    Codebook,
    CodebookError,
    ConfigError,
    UnsupportedModelError,
    VecInferCache,
    VecInferConfig,
    disable,
    enable,
    enabled,
)
from vecinfer_hf.cache.online_codebook import OnlineCodebook
from vecinfer_hf.hub import search
from vecinfer_hf.integration.compat import returned_cache


@pytest.fixture
def directory(tmp_path):
    """A saved codebook for the tiny llama, made for a window of 32 tokens."""
    return save_codebook(tmp_path / "codebook")


FORMS = {
    "name": lambda name: (name, {}),
    "config": lambda name: (VecInferConfig(name), {}),
    "config by keyword": lambda name: (VecInferConfig(codebook=name), {}),
    "object": lambda name: (Codebook.from_pretrained(name), {}),
    "options": lambda name: (name, {"residual_length": 128, "sink_length": 2}),
    "config and options": lambda name: (VecInferConfig(name, residual_length=64), {"residual_length": 128}),
    "config with an option": lambda name: (VecInferConfig(name, residual_length=128), {}),
    "object and options": lambda name: (Codebook.from_pretrained(name), {"residual_length": 128}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_runs_with_the_window_that_was_asked_for(form, directory):
    """The codebook was made for 32; an explicit 128 counts."""
    codebook, options = FORMS[form](directory)
    model = tiny_model("llama")
    assert enable(model, codebook, **options) is model
    cache = used_cache(model)
    assert isinstance(cache, VecInferCache)
    assert cache.layers[0].residual_length == (128 if "option" in form else 32)
    assert cache.layers[0].sink_length == (2 if "sink_length" in options else 4)


def test_nothing_means_auto(monkeypatch):
    monkeypatch.setattr(search, "_on_hub", lambda *_: iter(()))  # asking a Hub that is not there takes seconds
    model = tiny_model("llama")
    before = state(model)
    with pytest.raises(CodebookError, match=r'codebook="auto" found none'):
        enable(model)
    assert state(model) == before
    model.config._name_or_path = "someone/SmolLM2-135M-Instruct"
    with pytest.raises(CodebookError, match="found none"):
        # A shipped codebook of that name has another shape.
        enable(model)


BAD = {
    "typo": ({"residual_lenght": 16}, r"residual_lenght.*residual_length"),
    "value": ({"residual_length": -1}, "residual_length is -1"),
    "bits": ({"key_bits": 4}, "key_bits=4 was asked for, but the codebook has"),
    "length without static": ({"max_cache_len": 64}, "static=True"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("form", ["name", "object", "config"])
@pytest.mark.parametrize("how", [enable, enabled], ids=["enable", "enabled"])
def test_what_is_refused_changes_nothing(case, form, how, directory):
    codebook, _ = FORMS[form](directory)
    options, message = BAD[case]
    model = tiny_model("llama")
    before = state(model)

    def ask():
        with how(model, codebook, **options) if how is enabled else how(model, codebook, **options):
            pass

    with pytest.raises(ConfigError, match=f"(?s){message}"):
        ask()
    assert state(model) == before


@pytest.mark.parametrize("wrong", [3, ["a"], {"codebook": "x"}], ids=str)
def test_what_is_no_codebook_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"codebook is a {type(wrong).__name__}.*give a Codebook"):
        enable(tiny_model("llama"), wrong)


def test_what_is_no_model_is_refused():
    with pytest.raises(UnsupportedModelError, match="Linear is no transformers model"):
        enable(torch.nn.Linear(2, 2), "x")
    with pytest.raises(UnsupportedModelError, match=r"LlamaModel has no generate.*AutoModelForCausalLM"):
        enable(transformers.LlamaModel(tiny_config("llama")), "x")


@pytest.mark.parametrize("value", [None, "hybrid", "static", "dynamic", "offloaded", "quantized"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_enable_wins_over_a_generation_config_and_disable_brings_it_back(value, family):
    model = tiny_model(family)
    model.set_attn_implementation("eager")
    model.generation_config.cache_implementation = value
    model.generation_config.cache_config = {"backend": "quanto", "nbits": 4} if value == "quantized" else None
    before = state(model)
    enable(model, random_codebook(model.config), **OPTIONS)
    assert isinstance(used_cache(model), VecInferCache)
    disable(model)
    assert state(model) == before
    if value in (None, "hybrid", "dynamic"):
        assert type(used_cache(model)) is DynamicCache


@pytest.mark.parametrize("attention", ["eager", "sdpa", "vecinfer"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_disable_gives_back_the_attention_that_was_there(family, attention):
    model = tiny_model(family)
    if attention == "sdpa" and not model._supports_sdpa:
        pytest.skip(f"{family} has no sdpa attention in transformers")
    model.set_attn_implementation(attention)
    for _ in range(3):
        enable(model, "online")
        assert model.config._attn_implementation == "vecinfer"
        assert disable(model) is model
        assert model.config._attn_implementation == attention
    assert type(used_cache(model)) is DynamicCache


def test_what_a_user_sets_after_enable_stays():
    codebook = random_codebook(tiny_config("llama"))
    model = enable(tiny_model("llama"), codebook, **OPTIONS)
    model.set_attn_implementation("eager")
    model.generation_config.cache_implementation = "static"
    # Codes are still used, and the model has its attention afterwards.
    assert isinstance(used_cache(model), VecInferCache)
    assert model.config._attn_implementation == "eager"
    disable(model)
    assert model.config._attn_implementation == "eager"
    assert model.generation_config.cache_implementation == "static"
    assert model.generation_config.cache_config is None
    assert isinstance(used_cache(model), StaticCache)


def test_a_generation_config_that_was_replaced_stays_and_codes_are_used():
    model = tiny_model("llama")
    model.generation_config.cache_implementation = "dynamic"
    enable(model, random_codebook(model.config), **OPTIONS)
    own = model.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=1)
    assert used_cache(model).layers[0].residual_length == 16
    disable(model)
    assert model.generation_config is own
    assert (own.cache_config, own.cache_implementation) == (None, None)
    assert type(used_cache(model)) is DynamicCache


def test_options_in_the_generation_config_may_be_edited():
    model = enable(tiny_model("llama"), random_codebook(tiny_config("llama")), **OPTIONS)
    model.generation_config.cache_config["residual_length"] = 8
    assert used_cache(model).layers[0].residual_length == 8
    disable(model)
    assert model.generation_config.cache_config is None


def test_enabling_again_replaces_codebook_and_options_but_not_what_was_before(directory):
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    model.generation_config.cache_implementation = "dynamic"
    before = state(model)
    enable(model, random_codebook(model.config, 4, 4), residual_length=16)
    assert used_cache(model).codebook.bits_per_element == 4
    enable(model, directory, sink_length=2)
    cache = used_cache(model)
    assert cache.codebook.bits_per_element == 2
    assert (cache.layers[0].residual_length, cache.layers[0].sink_length) == (32, 2)
    assert model.generation_config.cache_config == {"backend": "vecinfer", "codebook": directory, "sink_length": 2}
    disable(model)
    assert state(model) == before


def test_state_is_one_attribute():
    model = tiny_model("llama")
    before = set(vars(model))
    enable(model, random_codebook(model.config), **OPTIONS)
    used_cache(model)
    assert set(vars(model)) - before == {"_vecinfer"}
    disable(model)
    assert set(vars(model)) == before


def test_static_needs_no_length(directory):
    """Sized per call, never below an earlier one."""
    model = enable(tiny_model("llama"), directory, static=True, residual_length=16)
    lengths = [used_cache(model).layers[0].max_cache_len]
    output = model.generate(tiny_inputs(1, 70), max_new_tokens=30, do_sample=False, return_dict_in_generate=True)
    lengths.append(returned_cache(output).layers[0].max_cache_len)
    assert lengths[0] >= 44
    assert lengths[1] >= 99
    dynamic = enable(tiny_model("llama"), directory, residual_length=16)
    assert torch.equal(output.sequences, dynamic.generate(tiny_inputs(1, 70), max_new_tokens=30, do_sample=False))


def test_online_makes_a_codebook_for_each_cache():
    model = enable(tiny_model("llama"), "online", residual_length=8)
    first, second = used_cache(model), used_cache(model)
    assert isinstance(first.codebook, OnlineCodebook)
    assert first.codebook is not second.codebook
    assert used_cache(enable(model, "online", static=True)).is_static


def test_the_block_leaves_the_model_as_it_was_also_after_an_error(directory):
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    model.generation_config.cache_implementation = "dynamic"
    before = state(model)
    with enabled(model, directory, residual_length=8) as inside:
        assert inside is model
        assert used_cache(model).layers[0].residual_length == 8
    assert state(model) == before
    with pytest.raises(ZeroDivisionError), enabled(model, directory):
        1 / 0  # noqa: B018
    assert state(model) == before
    with enabled(model, directory):
        model.set_attn_implementation("sdpa")
        model.generation_config = GenerationConfig()
        disable(model)
    assert state(model) == before


def test_blocks_may_be_nested_and_stand_in_an_enabled_model(directory):
    model = tiny_model("llama")
    before = state(model)
    windows = []
    with enabled(model, directory, residual_length=8):
        with enabled(model, random_codebook(model.config), residual_length=16):
            windows.append(used_cache(model).layers[0].residual_length)
        windows.append(used_cache(model).layers[0].residual_length)
    assert windows == [16, 8]
    assert state(model) == before
    enable(model, directory)
    outer = state(model)
    with enabled(model, residual_length=8, codebook=directory):
        assert used_cache(model).layers[0].residual_length == 8
    assert state(model) == outer
    assert used_cache(model).layers[0].residual_length == 32
    disable(model)
    assert state(model) == before


def test_disable_leaves_a_model_alone_that_was_not_enabled():
    model = tiny_model("llama")
    model.generation_config.cache_config = {"backend": "quanto"}
    model.generation_config.cache_implementation = "quantized"
    before = state(model)
    disable(disable(model))
    assert state(model) == before
