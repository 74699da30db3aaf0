# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Which models are taken is asked of their code, not of a flag, and costs neither memory nor random numbers."""

import pytest
import torch
import transformers
from model_families import FAMILIES, family_config, family_model, is_available
from tiny_models import tiny_config, tiny_model

from vecinfer_hf import UnsupportedModelError, enable
from vecinfer_hf.model_info import full_attention_layers, head_shapes, sharing_layers, unsupported_model_reason
from vecinfer_hf.model_info.probe import language_model, probe
from vecinfer_hf.model_info.refusals import model_probe


@pytest.mark.sampled(7)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_code_of_every_family_does_what_its_config_says(family):
    if not is_available(family):
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    model = family_model(family)
    found = model_probe(model)
    assert (found.misuse, found.failure) == (None, None)
    layers = full_attention_layers(model.config)
    assert sorted(found.readers) == layers
    assert {i: (found.heads[i][1], *found.head_dims[i]) for i in layers} == head_shapes(model.config)
    sharing = sharing_layers(model.config)
    for index, readers in found.readers.items():
        shared = [other for other, source in sharing.items() if source == index]
        # Zamba2 uses one attention module in all its layers, so its modules have no index.
        assert readers == ([-1] if family == "zamba2" else [index, *shared])
    assert unsupported_model_reason(model) is None


def test_a_flag_that_says_no_is_not_believed():
    model = tiny_model("llama")
    model._supports_attention_backend = False
    assert unsupported_model_reason(model) is None


class ReadsItsKeys(torch.nn.Module):
    """An attention that repeats the cached keys itself, as DiffLlama's and JetMoe's do."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, hidden_states, **kwargs):
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        update = cache.update
        cache.update = lambda *args, **more: [torch.cat([states, states]) for states in update(*args, **more)]
        return self.attention(hidden_states, **kwargs)


class OtherAttention(torch.nn.Module):
    """An attention that never reaches the cache."""

    def forward(self, hidden_states, **kwargs):
        return hidden_states, None


def changed_class(change):
    class Changed(transformers.LlamaModel):
        def __init__(self, config):
            super().__init__(config)
            self.layers[1].self_attn = change(self.layers[1].self_attn)

    class ChangedForCausalLM(transformers.LlamaForCausalLM):
        def __init__(self, config):
            super().__init__(config)
            self.model = Changed(config)

    return ChangedForCausalLM


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (ReadsItsKeys, "calls cat on the cached keys or values before its attention"),
        (lambda own: OtherAttention(), "does not pass the keys and values of layers \\[1\\] to its cache"),
    ],
    ids=["reads keys", "no cache"],
)
def test_code_that_cannot_have_codes_is_refused_before_anything_changes(change, words):
    model = changed_class(change)(tiny_config("llama")).eval()
    with pytest.raises(UnsupportedModelError, match=f"{words}.*default cache"):
        enable(model, "online")
    assert model.config._attn_implementation == "sdpa"


def test_shapes_that_differ_from_the_config_are_refused():
    class Narrow(transformers.LlamaModel):
        def __init__(self, config):
            super().__init__(config)
            self.layers[0].self_attn.k_proj = torch.nn.Linear(64, 16, bias=False)
            self.layers[0].self_attn.v_proj = torch.nn.Linear(64, 16, bias=False)

    model = transformers.LlamaForCausalLM(tiny_config("llama"))
    model.model = Narrow(model.config)
    assert "caches 1 heads of sizes 16 and 16 in layer 0, its config says 2" in unsupported_model_reason(model)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: transformers.DiffLlamaForCausalLM(transformers.DiffLlamaConfig(**SMALL)), "attention"),
        (lambda: transformers.DogeForCausalLM(transformers.DogeConfig(**SMALL)), "cached keys or values"),
        (
            lambda: transformers.BloomForCausalLM(transformers.BloomConfig(hidden_size=32, n_layer=1, n_head=2)),
            "interf",
        ),
    ],
    ids=["diffllama", "doge", "bloom"],
)
def test_models_of_transformers_that_read_keys_themselves_are_refused_by_enable(make, words):
    with pytest.raises(UnsupportedModelError, match=words):
        enable(make().eval(), "online")


SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def test_a_probe_leaves_the_random_state_and_the_config_alone():
    config = family_config("qwen3_next")
    before, words = torch.random.get_rng_state(), config.to_json_string()
    model_class, inner = language_model(config)
    probe(model_class, type(inner).from_dict({**inner.to_dict(), "rms_norm_eps": 1e-3}))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert config.to_json_string() == words
    assert config._attn_implementation != "vecinfer-probe"
