# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""request.py: which place decides whether a call uses codes, and with which options."""

import pytest
from tiny_codebooks import random_codebook
from tiny_models import tiny_model
from transformers import GenerationConfig

from vecinfer_hf import ConfigError, VecInferConfig, enable
from vecinfer_hf.integration.request import names_vecinfer, requested


OURS = {"backend": "vecinfer", "codebook": "a", "residual_length": 16}


def config_of(**entries):
    config = GenerationConfig()
    for name, value in entries.items():
        setattr(config, name, value)
    return config


@pytest.fixture
def model():
    return tiny_model("llama")


@pytest.fixture
def enabled_model(model):
    return enable(model, random_codebook(model.config), residual_length=32, sink_length=2)


@pytest.mark.parametrize(
    ("cache_config", "wanted"),
    [
        (None, False),
        ({}, False),
        ({"backend": "quanto", "nbits": 4}, False),
        ({"codebook": "x"}, False),
        (OURS, True),
        ({"backend": "vecinfer"}, True),
        ({"quant_method": "vecinfer", "codebook": "x"}, True),
        (VecInferConfig(), True),
        (VecInferConfig("x").to_dict(), True),
    ],
    ids=str,
)
def test_what_names_codes(cache_config, wanted):
    assert names_vecinfer(cache_config) is wanted


@pytest.mark.parametrize("place", ["keyword", "generation config", "model"])
@pytest.mark.parametrize("cache_config", [OURS, VecInferConfig("a", residual_length=16)], ids=["dict", "config"])
def test_a_cache_config_in_any_place_asks_for_codes(model, place, cache_config):
    keywords, given = {}, None
    if place == "keyword":
        keywords = {"cache_config": cache_config}
    elif place == "generation config":
        given = config_of(cache_config=cache_config)
    else:
        model.generation_config.cache_config = cache_config
    assert requested(model, keywords, given).config == VecInferConfig("a", residual_length=16)


@pytest.mark.parametrize("cache_config", [None, {}, {"codebook": "a"}, OURS], ids=str)
def test_the_implementation_alone_is_enough_and_means_auto(model, cache_config):
    found = requested(model, {"cache_implementation": "vecinfer", "cache_config": cache_config}, None)
    assert found.config.codebook == ("a" if cache_config else None)
    assert found.codebook is None


def test_a_call_that_asks_for_nothing_gets_nothing(model):
    for keywords, given in (
        ({}, None),
        ({"cache_implementation": "static"}, None),
        ({"cache_implementation": "quantized", "cache_config": {"backend": "quanto"}}, None),
        ({"cache_config": {"codebook": "x"}}, None),
        ({}, config_of(cache_implementation="dynamic", cache_config={"backend": "hqq"})),
    ):
        assert requested(model, keywords, given) is None


@pytest.mark.parametrize("name", ["static", "dynamic", "offloaded", "quantized"])
def test_a_keyword_decides_for_its_call_also_on_an_enabled_model(enabled_model, name):
    keywords = {"cache_implementation": name}
    if name == "quantized":
        assert requested(enabled_model, keywords, None) is not None  # the model's own cache_config names codes
        keywords["cache_config"] = {"backend": "quanto"}
    assert requested(enabled_model, keywords, None) is None


@pytest.mark.parametrize("name", ["static", "dynamic", "offloaded"])
def test_a_keyword_that_contradicts_another_is_refused(model, name):
    for cache_config in (OURS, VecInferConfig("a")):
        with pytest.raises(ConfigError, match=f"cache_implementation='{name}' and a VecInfer cache_config"):
            requested(model, {"cache_implementation": name, "cache_config": cache_config}, None)


@pytest.mark.parametrize("place", ["generation config", "model"])
@pytest.mark.parametrize("how", ["enabled", "cache_config"])
@pytest.mark.parametrize("name", ["static", "dynamic", "offloaded"])
def test_a_generation_config_does_not_take_codes_away_and_that_is_told(model, name, place, how, caplog):
    from vecinfer_hf.integration import request

    request.logger.warning_once.cache_clear()
    if how == "enabled":
        enable(model, random_codebook(model.config))
    else:
        model.generation_config.cache_config = OURS
    given = config_of(cache_implementation=name) if place == "generation config" else None
    if place == "model":
        model.generation_config.cache_implementation = name
    assert requested(model, {}, given) is not None
    assert f"cache_implementation='{name}' of the generation config is not used" in caplog.text


def test_hybrid_of_an_old_checkpoint_means_nothing(model, caplog):
    model.generation_config.cache_implementation = "hybrid"
    assert requested(model, {}, None) is None
    assert requested(model, {"cache_config": OURS}, None) is not None
    assert requested(model, {"cache_config": OURS, "cache_implementation": "hybrid"}, None) is not None
    assert not caplog.text


def test_options_of_a_call_go_over_those_of_enable(enabled_model):
    state = enabled_model._vecinfer
    found = requested(enabled_model, {}, None)
    assert found.config == VecInferConfig(residual_length=32, sink_length=2)
    assert found.codebook is state.codebook
    for cache_config in ({"residual_length": 64}, VecInferConfig(residual_length=64)):
        found = requested(enabled_model, {"cache_config": cache_config}, None)
        assert found.config == VecInferConfig(residual_length=64, sink_length=2)
        assert found.codebook is state.codebook
    # Another codebook has options of its own.
    found = requested(enabled_model, {"cache_config": {"codebook": "b", "sink_length": 1}}, None)
    assert found.config == VecInferConfig("b", sink_length=1)
    assert found.codebook is None
    # The call changed nothing.
    assert state.config == VecInferConfig(residual_length=32, sink_length=2)


def test_another_backend_on_an_enabled_model_is_refused(enabled_model):
    with pytest.raises(ConfigError, match=r"backend 'quanto'.*cache_implementation=\"quantized\""):
        requested(enabled_model, {"cache_config": {"backend": "quanto"}}, None)


def test_an_assistant_asks_for_itself_and_not_as_the_model_it_assists(model, enabled_model):
    plain = tiny_model("llama", seed=1)
    given = config_of(is_assistant=True, cache_implementation="vecinfer", cache_config=OURS)
    assert requested(plain, {}, given) is None
    assert requested(enabled_model, {}, given).config.residual_length == 32
