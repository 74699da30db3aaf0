# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Codes are used where they were asked for, or the call says that they are not."""

import logging

import package_adapter as adapter
import pytest
from edge_cases import (
    CACHE_NAMES,
    ONLINE,
    REFUSED,
    cache_of,
    enabled,
    greedy,
    new_cache,
    right_or_refused,
    sliding_model,
    tiny_model,
)
from tiny_models import tiny_inputs
from transformers import GenerationConfig, Phi3Config, Phi3ForCausalLM
from transformers.utils import logging as transformers_logging

from vecinfer_hf import VecInferCache, VecInferConfig
from vecinfer_hf.integration.compat import cache_argument


pytestmark = pytest.mark.sampled(3)


@pytest.fixture
def warnings():
    """What transformers' logger or the package's said during the test."""
    messages = []
    # What was said once in this process is said again.
    transformers_logging.warning_once.cache_clear()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("transformers", "vecinfer_hf")]
    for logger in loggers:
        logger.addHandler(handler)
    yield messages
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.mark.parametrize("named", CACHE_NAMES)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_enable_wins_over_the_cache_that_a_checkpoint_names(named, family):
    model = tiny_model(family)
    if right_or_refused(lambda: setattr_checked(model, named)) is REFUSED:
        pytest.skip(f"this transformers has no cache {named!r}")
    enabled(model)
    assert isinstance(cache_of(model), VecInferCache)


def setattr_checked(model, named):
    model.generation_config.cache_implementation = named
    model.generation_config.validate()


@pytest.mark.parametrize("named", CACHE_NAMES[:4])
def test_a_checkpoint_that_names_a_cache_is_loaded_with_codes(named, tmp_path):
    from transformers import AutoModelForCausalLM

    model = tiny_model("gemma2")
    model.generation_config.cache_implementation = named
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=VecInferConfig(**ONLINE))
    assert isinstance(cache_of(loaded), VecInferCache)


@pytest.mark.parametrize("named", CACHE_NAMES[:4])
def test_one_call_asks_for_codes_whatever_the_checkpoint_names(named):
    model = tiny_model("gemma2")
    model.generation_config.cache_implementation = named
    cache = cache_of(model, cache_implementation="vecinfer", cache_config=dict(ONLINE))
    assert isinstance(cache, VecInferCache)
    assert model.generation_config.cache_implementation == named


def longrope_model():
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 64,
    }
    config = Phi3Config(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        original_max_position_embeddings=64,
        rope_parameters=rope,
        pad_token_id=0,
        eos_token_id=None,
        bos_token_id=1,
    )
    return Phi3ForCausalLM(config).eval()


@pytest.mark.parametrize(("prompt", "new"), [(30, 5), (60, 10), (100, 5)])
def test_a_model_that_drops_its_cache_where_its_rope_changes(prompt, new, warnings):
    """Phi-3 begins anew with a default cache beyond its original positions: codes, or a word."""
    model = longrope_model()
    ids = tiny_inputs(1, prompt)

    def generate():
        enabled(model)
        output = model.generate(ids, max_new_tokens=new, do_sample=False, return_dict_in_generate=True)
        return adapter.returned_cache(output)

    cache = right_or_refused(generate)
    told = [message for message in warnings if "vecinfer" in message.lower()]
    assert cache is REFUSED or isinstance(cache, VecInferCache) or told


def test_a_given_cache_that_the_model_drops(warnings):
    model = longrope_model()
    cache = VecInferCache(model.config, "online", ops_backend="reference")
    result = right_or_refused(lambda: greedy(model, tiny_inputs(1, 100), cache, new=5))
    told = [message for message in warnings if "vecinfer" in message.lower()]
    assert result is REFUSED or int(cache.get_seq_length()) == 104 or told


@pytest.mark.parametrize("how", ["enabled", "given"])
def test_a_model_that_replaces_its_cache_in_a_forward_pass(how, warnings):
    """Whatever replaced the cache: after the call that asked for codes, what was used is checked."""
    from transformers import DynamicCache

    from vecinfer_hf.integration.compat import CACHE_ARGUMENT

    model = tiny_model("llama")
    forward = model.model.forward

    def replaced(*args, **kwargs):
        if isinstance(kwargs.get(CACHE_ARGUMENT), VecInferCache):
            kwargs[CACHE_ARGUMENT] = DynamicCache(config=model.config)
        return forward(*args, **kwargs)

    model.model.forward = replaced
    if how == "enabled":
        enabled(model)
        result = right_or_refused(lambda: cache_of(model))
    else:
        result = right_or_refused(lambda: cache_of(model, **cache_argument(new_cache(model.config))))
    told = [message for message in warnings if "vecinfer" in message.lower()]
    assert result is REFUSED or told


def test_continuous_batching_beside_it_is_refused_or_announced(warnings):
    """It has a cache of its own, in full precision."""
    model = enabled(tiny_model("llama"))
    config = GenerationConfig(max_new_tokens=3, eos_token_id=-1, pad_token_id=0, do_sample=False)
    result = right_or_refused(lambda: model.generate_batch([[5, 6, 7]], generation_config=config))
    assert result is REFUSED or [message for message in warnings if "vecinfer" in message.lower()]


def test_a_model_whose_layers_are_all_sliding_is_announced(warnings):
    model = tiny_model("mistral", sliding_window=16)
    result = right_or_refused(lambda: cache_of(enabled(model)))
    assert result is REFUSED or [message for message in warnings if "full attention" in message]


def test_another_cache_named_in_one_call_of_an_enabled_model_is_used():
    model = enabled(tiny_model("llama"))
    cache = right_or_refused(lambda: cache_of(model, cache_implementation="dynamic"))
    assert cache is REFUSED or not isinstance(cache, VecInferCache)
    assert isinstance(cache_of(model), VecInferCache)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_beams": 2},
        {"num_return_sequences": 2, "do_sample": True},
        {"prompt_lookup_num_tokens": 3},
        {"prefill_chunk_size": 8},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
@pytest.mark.parametrize("make", [lambda: tiny_model("llama"), sliding_model])
def test_every_way_of_generating_uses_codes(make, arguments):
    model = enabled(make())
    output = model.generate(
        tiny_inputs(1, 30), **{"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True, **arguments}
    )
    assert isinstance(adapter.returned_cache(output), VecInferCache)


@pytest.fixture
def word_tokenizer():
    """A tokenizer of the 97 words w0 to w96."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(WordLevel({f"w{i}": i for i in range(97)}, unk_token="w2"))
    raw.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="w0", unk_token="w2")


def test_a_pipeline_uses_codes(word_tokenizer, monkeypatch):
    from transformers import pipeline

    made = []
    original = VecInferCache.__init__
    monkeypatch.setattr(VecInferCache, "__init__", lambda self, *a, **k: (made.append(1), original(self, *a, **k))[1])
    model = enabled(tiny_model("llama"))
    made.clear()
    pipeline("text-generation", model=model, tokenizer=word_tokenizer)("w5 w6 w7", max_new_tokens=3, do_sample=False)
    assert made
