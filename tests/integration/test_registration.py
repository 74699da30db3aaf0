# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""registration.py: hooks that only add, can be undone, and say so when transformers has moved."""

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model
from transformers import AttentionInterface, AttentionMaskInterface, GenerationConfig
from transformers.generation import GenerationMixin
from transformers.generation import configuration_utils as generation_configuration

from vecinfer_hf import VecInferCache, VecInferConfig, disable, enable
from vecinfer_hf.integration import registration
from vecinfer_hf.integration.compat import cache_argument, returned_cache


@pytest.fixture
def _installed_again():
    yield
    registration.install()
    assert registration.self_check() == []


def current():
    return (
        generation_configuration.ALL_CACHE_IMPLEMENTATIONS,
        GenerationMixin._prepare_cache_for_generation,
        AttentionInterface()["vecinfer"],
        AttentionMaskInterface()["vecinfer"],
    )


def test_this_transformers_has_everything_the_hooks_need():
    assert registration.self_check() == []


def test_installing_again_changes_nothing():
    before = current()
    registration.install()
    assert current() == before
    assert before[0].count("vecinfer") == 1


@pytest.mark.usefixtures("_installed_again")
def test_uninstall_gives_transformers_its_own_back():
    hook = GenerationMixin._prepare_cache_for_generation
    registration.uninstall()
    assert "vecinfer" not in generation_configuration.ALL_CACHE_IMPLEMENTATIONS
    assert GenerationMixin._prepare_cache_for_generation is hook._vecinfer_original
    assert GenerationMixin._prepare_cache_for_generation.__module__.startswith("transformers.")
    with pytest.raises(ValueError, match="cache_implementation"):
        GenerationConfig(cache_implementation="vecinfer")
    registration.uninstall()
    registration.install()
    assert GenerationConfig(cache_implementation="vecinfer").cache_implementation == "vecinfer"


@pytest.mark.usefixtures("_installed_again")
def test_without_the_hook_a_users_cache_still_works():
    model = tiny_model("llama")
    registration.uninstall()
    cache = VecInferCache(model.config, random_codebook(model.config), residual_length=8, ops_backend="reference")
    output = model.generate(tiny_inputs(1, 40), max_new_tokens=10, do_sample=False, **cache_argument(cache))
    assert output.shape == (1, 50)
    assert cache.layers[0].read_lengths().quantized == [49 - 12]


@pytest.mark.usefixtures("_installed_again")
@pytest.mark.parametrize("moved", ["list", "missing", "parameters", "cache"])
def test_a_transformers_that_has_moved_is_told_and_left_alone(moved, monkeypatch, caplog):
    registration.uninstall()
    original = GenerationMixin._prepare_cache_for_generation
    if moved == "list":
        monkeypatch.setattr(generation_configuration, "ALL_CACHE_IMPLEMENTATIONS", ["dynamic"])
    elif moved == "missing":
        monkeypatch.delattr(GenerationMixin, "_prepare_cache_for_generation")
    elif moved == "cache":
        monkeypatch.setattr(GenerationMixin, "prepare_inputs_for_generation", lambda self, ids, memory: None)
    else:
        monkeypatch.setattr(GenerationMixin, "_prepare_cache_for_generation", lambda self, config, cache: None)
    hook = getattr(GenerationMixin, "_prepare_cache_for_generation", None)
    registration.logger.warning_once.cache_clear()
    registration.install()
    assert getattr(GenerationMixin, "_prepare_cache_for_generation", None) is hook
    assert "a VecInferCache(model.config, codebook) still works" in caplog.text
    monkeypatch.undo()
    assert GenerationMixin._prepare_cache_for_generation is original


@pytest.mark.parametrize(
    "cache_config", [None, {}, {"backend": "quanto", "nbits": 4}, {"codebook": "x"}, {"backend": "hqq"}], ids=str
)
def test_other_peoples_requests_are_not_taken(cache_config):
    config = GenerationConfig(cache_config=cache_config)
    assert not registration._requested(config)
    config.cache_implementation = "quantized" if cache_config else "static"
    assert not registration._requested(config)


@pytest.mark.parametrize(
    ("implementation", "wanted"), [(None, True), ("quantized", True), ("static", False), ("dynamic", False)]
)
def test_the_backend_form_gives_way_to_another_implementation(implementation, wanted):
    config = GenerationConfig(cache_implementation=implementation)
    config.cache_config = {"backend": "vecinfer"}
    assert registration._requested(config) is wanted


def test_stock_generation_is_untouched():
    model = tiny_model("llama")
    before = model.config._attn_implementation
    output = model.generate(tiny_inputs(1, 20), max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    assert not isinstance(returned_cache(output), VecInferCache)
    assert model.config._attn_implementation == before
    assert not hasattr(model, "_vecinfer_previous_attention")


def test_enable_is_idempotent_and_replaces_its_options():
    model = tiny_model("llama")
    codebook = random_codebook(model.config)
    for length in (8, 16):
        assert enable(model, VecInferConfig(residual_length=length), codebook=codebook) is model
    assert model.generation_config.cache_config == {"backend": "vecinfer", "residual_length": 16}
    disable(model)
    assert model.config._attn_implementation == "sdpa"
    assert not hasattr(model, "_vecinfer_codebook")


def test_enabling_another_codebook_by_name_replaces_an_object(tmp_path):
    model = tiny_model("llama")
    enable(model, codebook=random_codebook(model.config, 4, 4))
    random_codebook(model.config, 2, 2).save_pretrained(tmp_path)
    enable(model, VecInferConfig(codebook=str(tmp_path), residual_length=8))
    output = model.generate(tiny_inputs(1, 30), max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    assert returned_cache(output).codebook.bits_per_element == 2


def test_a_codebook_object_is_not_saved_and_its_absence_is_told(tmp_path):
    from transformers import AutoModelForCausalLM

    model = enable(tiny_model("llama"), codebook=random_codebook(tiny_model("llama").config))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"(?s)names no codebook.*vecinfer calibrate"):
        loaded.generate(tiny_inputs(1, 5), max_new_tokens=2, do_sample=False)


def test_a_copy_of_an_enabled_model_is_enabled():
    import copy

    model = enable(
        tiny_model("llama"), VecInferConfig(residual_length=8), codebook=random_codebook(tiny_model().config)
    )
    copied = copy.deepcopy(model)
    outputs = [each.generate(tiny_inputs(1, 30), max_new_tokens=20, do_sample=False) for each in (model, copied)]
    assert torch.equal(*outputs)
    disable(copied)
    assert model.config._attn_implementation == "vecinfer"
    assert copied.config._attn_implementation == "sdpa"


def test_disable_leaves_a_stock_model_alone():
    model = tiny_model("llama")
    model.generation_config.cache_config = {"backend": "quanto"}
    disable(model)
    assert model.generation_config.cache_config == {"backend": "quanto"}
    assert model.config._attn_implementation == "sdpa"
