# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A call that asked for codes used them or raised: models with caches of their own, longrope, batching, assistants."""

import logging

import pytest
import torch
import transformers
from tiny_codebooks import random_codebook
from tiny_models import tiny_config, tiny_inputs, tiny_model
from transformers.cache_utils import DynamicCache

from vecinfer_hf import (
    UnsupportedCallError,
    UnsupportedModelError,
    VecInferCache,
    VecInferConfig,
    disable,
    enable,
)
from vecinfer_hf.integration import generate_call
from vecinfer_hf.integration.compat import CACHE_ARGUMENT, cache_argument, returned_cache


OPTIONS = {"residual_length": 16, "ops_backend": "reference"}


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


class ReplacesItsCache(transformers.LlamaForCausalLM):
    """As models with longrope: from a length on, a forward pass begins a cache of its own."""

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        if input_ids.shape[1] > 42:
            kwargs[CACHE_ARGUMENT] = DynamicCache(config=self.config)
        return super().prepare_inputs_for_generation(input_ids, **kwargs)


class PreparesItsCache(transformers.LlamaForCausalLM):
    """As models that override transformers' method without calling it."""

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs):
        model_kwargs[CACHE_ARGUMENT] = DynamicCache(config=self.config)


class DropsItsCache(transformers.LlamaForCausalLM):
    """Never fills the cache it is given, and returns none."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        output = super().forward(input_ids=input_ids, use_cache=False)
        return transformers.modeling_outputs.CausalLMOutput(logits=output.logits)


WAYWARD = {
    ReplacesItsCache: (UnsupportedCallError, "replaced the VecInfer cache by a DynamicCache in this call"),
    PreparesItsCache: (UnsupportedModelError, "PreparesItsCache prepares the cache of a generate call by itself"),
    DropsItsCache: (UnsupportedCallError, "stored no token of this call in the VecInfer cache"),
}


@pytest.mark.parametrize("how", ["enable", "call", "cache"])
@pytest.mark.parametrize("kind", WAYWARD)
def test_a_model_that_uses_another_cache_is_an_error_and_not_silent(kind, how, directory):
    model = kind(tiny_config("llama")).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    expected = run(model).sequences
    error, message = WAYWARD[kind]
    kwargs = {}
    if how == "enable":
        enable(model, directory, **OPTIONS)
        message += ".*vecinfer_hf.disable"
    elif how == "call":
        kwargs = {"cache_config": VecInferConfig(directory, **OPTIONS)}
    else:
        kwargs = cache_argument(VecInferCache(model, directory, **OPTIONS))
        if kind is PreparesItsCache:
            error, message = WAYWARD[ReplacesItsCache]
    with pytest.raises(error, match=message):
        run(model, **kwargs)
    disable(model)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(run(model).sequences, expected)


def phi3_with_longrope():
    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    return tiny_model("phi3", original_max_position_embeddings=64, rope_parameters=rope)


LENGTHS = [(30, 5), (60, 10), (63, 3), (64, 3), (100, 5)]
"""Tokens of a prompt and of its answer, around the 64 where the tiny longrope changes."""


@pytest.mark.skipif(
    CACHE_ARGUMENT != "cache", reason="before 5.24 transformers gives longrope models one token behind a dropped cache"
)
@pytest.mark.parametrize(("length", "tokens"), LENGTHS)
@pytest.mark.parametrize("static", [False, True], ids=["growing", "static"])
def test_longrope_refills_the_same_cache_where_all_keys_change(length, tokens, static):
    model = phi3_with_longrope()
    expected = run(model, length=length, tokens=tokens).sequences
    size = {"static": True, "max_cache_len": 128} if static else {}
    cache = VecInferCache(model, random_codebook(model.config), residual_length=128, ops_backend="reference", **size)
    found = run(model, length=length, tokens=tokens, **cache_argument(cache))
    assert returned_cache(found) is cache
    assert torch.equal(found.sequences, expected)
    assert int(cache.get_seq_length()) == length + tokens - 1
    # With a short window the tokens from before the change are codes of the new keys.
    enable(model, random_codebook(model.config), **OPTIONS)
    assert max(used(model, length=length, tokens=tokens).layers[0].storage.quantized) >= length - 20


@pytest.mark.skipif(
    CACHE_ARGUMENT != "cache", reason="before 5.24 transformers gives longrope models one token behind a dropped cache"
)
def test_longrope_is_refused_where_the_whole_text_is_not_at_hand():
    model = phi3_with_longrope()
    cache = VecInferCache(model, "online", ops_backend="reference")
    run(model, length=30, tokens=2, **cache_argument(cache))
    with pytest.raises(
        UnsupportedCallError, match=r"more than 64 tokens.*brings 70 of 101 tokens.*prefill_chunk_size"
    ):
        run(model, length=130, prefill_chunk_size=70, **cache_argument(cache))
    assert int(cache.get_seq_length()) == 31


@pytest.fixture
def _own_deprecations(monkeypatch):
    """Assisted generation of transformers calls generate in a way that it deprecates itself."""
    monkeypatch.setattr(logging.getLogger("transformers.generation.utils"), "disabled", True)


@pytest.mark.usefixtures("_own_deprecations")
def test_a_model_that_drafts_with_its_first_layers(directory):
    """The window holds everything, since guesses that are refused push tokens out of a short one."""
    model = enable(tiny_model("llama"), directory, residual_length=512, ops_backend="reference")
    alone = run(model, tokens=20).sequences
    assert torch.equal(run(model, tokens=20, assistant_early_exit=1).sequences, alone)


@pytest.mark.usefixtures("_own_deprecations")
def test_an_enabled_assistant_drafts_on_codes(directory, monkeypatch):
    model, assistant = tiny_model("llama"), enable(tiny_model("llama", seed=1), directory, **OPTIONS)
    alone = run(model, tokens=20).sequences
    caches = []
    use = generate_call.GenerateCall.use
    monkeypatch.setattr(
        generate_call.GenerateCall, "use", lambda call, cache: caches.append(call.model) or use(call, cache)
    )
    output = run(model, tokens=20, assistant_model=assistant)
    assert torch.equal(output.sequences, alone)
    assert type(returned_cache(output)) is DynamicCache
    assert caches
    assert all(each is assistant for each in caches)


def test_layers_that_choose_their_keys_are_refused_by_name():
    if not hasattr(transformers, "MiniMaxM3VLTextConfig"):
        pytest.skip("this transformers has no MiniMax-M3")
    config = transformers.MiniMaxM3VLTextConfig(
        vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=4, num_experts_per_tok=2, index_n_heads=2,
        index_head_dim=16, index_block_size=8, index_topk_blocks=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        layer_types=["full_attention", "minimax_m3_sparse"],
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    model.generation_config.eos_token_id = None
    stock = run(model, length=30).sequences
    for ask in (
        lambda: enable(model, "online"),
        lambda: run(model, length=30, cache_config=VecInferConfig("online")),
        lambda: VecInferCache(model, "online"),
        lambda: VecInferCache(config, "online"),
    ):
        with pytest.raises(UnsupportedModelError, match=r"layers 1 \(minimax_m3_sparse\).*default cache"):
            ask()
    assert torch.equal(run(model, length=30).sequences, stock)
