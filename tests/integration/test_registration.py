# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""registration.py: hooks that only add, can be undone, and say so when transformers has moved."""

import inspect

import pytest
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model
from transformers import AttentionInterface, AttentionMaskInterface, GenerationConfig, PreTrainedConfig
from transformers.generation import GenerationMixin
from transformers.generation import configuration_utils as generation_configuration

from vecinfer_hf import VecInferCache
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
        *(getattr(hook.owner, hook.name) for hook in registration.HOOKS),
        AttentionInterface()["vecinfer"],
        AttentionMaskInterface()["vecinfer"],
    )


def of_transformers():
    """What each class has of its own under a hook's name, None for what it inherits."""
    return {hook.name: vars(hook.owner).get(hook.name) for hook in registration.HOOKS}


def test_this_transformers_has_everything_the_hooks_need():
    assert registration.self_check() == []


def test_installing_again_changes_nothing():
    before = current()
    registration.install()
    assert current() == before
    assert before[0].count("vecinfer") == 1


@pytest.mark.usefixtures("_installed_again")
def test_uninstall_gives_transformers_its_own_back():
    ours = of_transformers()
    registration.uninstall()
    assert "vecinfer" not in generation_configuration.ALL_CACHE_IMPLEMENTATIONS
    for name, method in of_transformers().items():
        assert method is ours[name]._vecinfer_original
        assert method is None or method.__module__.startswith("transformers.")
    assert GenerationMixin.init_continuous_batching.__module__.startswith("transformers.")
    with pytest.raises(ValueError, match="cache_implementation"):
        GenerationConfig(cache_implementation="vecinfer")
    before = of_transformers()
    registration.uninstall()
    assert of_transformers() == before
    registration.install()
    assert GenerationConfig(cache_implementation="vecinfer").cache_implementation == "vecinfer"


@pytest.mark.usefixtures("_installed_again")
def test_without_the_hook_a_users_cache_still_works():
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    registration.uninstall()
    cache = VecInferCache(model.config, random_codebook(model.config), residual_length=8, ops_backend="reference")
    output = model.generate(tiny_inputs(1, 40), max_new_tokens=10, do_sample=False, **cache_argument(cache))
    assert output.shape == (1, 50)
    assert cache.layers[0].read_lengths().quantized == [49 - 12]


MOVED = [(name, "other") for name in ("list", "attention", "cache")]
MOVED += [(hook.name, how) for hook in registration.HOOKS for how in ("missing", "parameters")]


@pytest.mark.usefixtures("_installed_again")
@pytest.mark.parametrize(("moved", "how"), MOVED)
def test_a_transformers_that_has_moved_is_told_and_left_alone(moved, how, monkeypatch, caplog):
    registration.uninstall()
    before = of_transformers()
    changed = {hook.name: hook.owner for hook in registration.HOOKS}
    if moved == "list":
        monkeypatch.setattr(generation_configuration, "ALL_CACHE_IMPLEMENTATIONS", ["dynamic"])
    elif moved == "attention":
        monkeypatch.setattr(PreTrainedConfig, "_attn_implementation", "eager")
    elif moved == "cache":
        other = lambda self, input_ids, next_sequence_length, memory: None  # noqa: E731
        monkeypatch.setattr(GenerationMixin, "prepare_inputs_for_generation", other)
    else:
        monkeypatch.setattr(changed[moved], moved, None if how == "missing" else lambda self, other: None)
    there = of_transformers()
    registration.logger.warning_once.cache_clear()
    registration.install()
    assert of_transformers() == there
    assert "still takes a VecInferCache(model.config, codebook)" in caplog.text
    assert len(registration.self_check()) == 1
    monkeypatch.undo()
    assert of_transformers() == before


def test_the_signatures_that_transformers_and_users_inspect_are_kept():
    for hook in registration.HOOKS:
        assert tuple(inspect.signature(getattr(hook.owner, hook.name)).parameters)[: len(hook.parameters)] == (
            hook.parameters
        )
    assert "streamer" in inspect.signature(GenerationMixin.generate).parameters


def test_stock_generation_is_untouched():
    model = tiny_model("llama")
    before, names = model.config._attn_implementation, sorted(vars(model))
    output = model.generate(tiny_inputs(1, 20), max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    assert not isinstance(returned_cache(output), VecInferCache)
    assert model.config._attn_implementation == before
    assert sorted(vars(model)) == names
