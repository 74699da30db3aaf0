# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A model whose attention means something that codes do not know is refused by name, never answered otherwise."""

import package_adapter as adapter
import pytest
import torch
from edge_cases import REFUSED, greedy, new_cache, refused, right_or_refused, tiny_model
from tiny_models import tiny_inputs
from transformers import AutoModelForCausalLM

import vecinfer_hf
from vecinfer_hf import VecInferCache, VecInferConfig
from vecinfer_hf.integration.compat import cache_argument


ONLINE = VecInferConfig(codebook="online", ops_backend="reference", residual_length=4096)


def widened(model):
    """Draw the weights wide, so that sparse and dense attention differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape) * 1.2 / parameter.shape[-1] ** 0.5)
    model.generation_config.eos_token_id = None
    return model.eval()


def sparse_model():
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "MiniMaxM3VLTextConfig"):
        pytest.skip("this transformers has no MiniMax-M3")
    config = transformers.MiniMaxM3VLTextConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        index_n_heads=2,
        index_head_dim=16,
        index_block_size=8,
        index_topk_blocks=2,
        layer_types=["full_attention", "minimax_m3_sparse"],
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return widened(AutoModelForCausalLM.from_config(config).float())


@pytest.mark.parametrize("how", ["enabled", "given", "vecinfer attention alone"])
def test_layers_that_attend_sparsely(how):
    """Which blocks a query attends to is in a keyword; the default cache and codes give the same, or are refused."""
    model = sparse_model()
    ids = tiny_inputs(1, 100)
    want = greedy(model, ids, new=10)

    def generate():
        if how == "enabled":
            return greedy(vecinfer_hf.enable(model, ONLINE), ids, new=10)
        if how == "given":
            cache = VecInferCache(model.config, "online", residual_length=4096, ops_backend="reference")
            return greedy(model, ids, cache, new=10)
        model.set_attn_implementation("vecinfer")
        return greedy(model, ids, new=10)

    got = right_or_refused(generate)
    assert got is REFUSED or torch.equal(got, want)


def test_an_unknown_kind_of_layer_is_refused_by_name_before_anything_runs():
    model = sparse_model()
    before = model.config._attn_implementation, model.generation_config.cache_config
    refused(lambda: vecinfer_hf.enable(model, ONLINE), "minimax_m3_sparse")
    assert (model.config._attn_implementation, model.generation_config.cache_config) == before


def call(**keywords):
    """Run the registered attention function on plain keys of a tiny model."""
    module = tiny_model("llama").model.layers[0].self_attn
    query, (key, value) = torch.randn(1, 4, 5, 16), torch.randn(2, 1, 2, 5, 16)
    return adapter.attention_function()(module, query, key, value, None, scaling=0.25, **keywords)[0]


UNKNOWN = {
    "block_mask": torch.ones(1, 1),
    "top_k": 4,
    "position_bias": torch.zeros(1, 4, 5, 5),
    "alibi_slopes": torch.ones(4),
    "block_table": torch.zeros(1, 1),
    "head_mask": torch.ones(4),
}


@pytest.mark.parametrize("name", sorted(set(UNKNOWN) - {"position_bias"}))
def test_an_unknown_keyword_is_refused_by_name(name):
    """SDPA, which serves plain keys, knows position_bias."""
    refused(lambda: call(**{name: UNKNOWN[name]}), name)


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_keyword_that_is_none_means_nothing(name):
    torch.manual_seed(1)
    got = call(**{name: None})
    torch.manual_seed(1)
    assert torch.equal(got, call())


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_keyword_is_refused_where_codes_are_attended_to(name, monkeypatch):
    """The same for handles: a model whose layers pass the keyword on."""
    model = tiny_model("llama")
    forward = type(model.model.layers[1].self_attn).forward
    monkeypatch.setattr(
        type(model.model.layers[1].self_attn),
        "forward",
        lambda self, *args, **kwargs: forward(self, *args, **{**kwargs, name: UNKNOWN[name]}),
    )
    cache = new_cache(model.config)
    refused(lambda: greedy(model, tiny_inputs(1, 20), cache), name)


@pytest.mark.parametrize("causal", [False, True])
def test_a_layer_that_is_not_causal(causal, monkeypatch):
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.self_attn.is_causal = causal
    ids = tiny_inputs(1, 20)
    with torch.no_grad():
        want = model(ids).logits
        model.set_attn_implementation("vecinfer")
        got = right_or_refused(lambda: model(ids, **cache_argument(new_cache(model.config, exact=True))).logits)
    if got is not REFUSED:
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def test_attention_weights_that_were_asked_for():
    """Codes never form them: they are given, or refused; None in their place is a silent answer."""
    model = tiny_model("llama", attn_implementation="eager")
    ids = tiny_inputs(1, 20)
    cache = new_cache(model.config, exact=True)
    output = right_or_refused(
        lambda: model.generate(
            ids,
            max_new_tokens=2,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
            **cache_argument(cache),
        )
    )
    if output is not REFUSED:
        assert output.attentions is not None
        assert all(weights is not None for step in output.attentions for weights in step)


def test_dropout_of_attention_weights_in_training():
    """A layer in training drops weights; over codes that is done or refused."""
    model = tiny_model("llama", attention_dropout=0.9).train()
    model.set_attn_implementation("vecinfer")
    ids = tiny_inputs(1, 20)
    cache = new_cache(model.config, exact=True)
    with torch.no_grad():
        first = right_or_refused(lambda: model(ids[:, :12], **cache_argument(cache)).logits)
        if first is REFUSED:
            return
        outputs = []
        for _ in range(2):
            got = right_or_refused(lambda: model(ids[:, 12:13], **cache_argument(cache)).logits)
            if got is REFUSED:
                return
            outputs.append(got)
            cache.crop(-1)
    assert not torch.equal(*outputs), "the dropout was left out"
