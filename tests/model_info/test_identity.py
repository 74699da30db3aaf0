# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What a transformers config says, for text models and for models around one."""

import json
from dataclasses import replace

import pytest
import transformers
from tiny_models import FAMILIES, tiny_config

from vecinfer_hf.model_info import (
    HeadShape,
    check_identity,
    full_attention_layers,
    head_shapes,
    model_identity,
    text_config,
    unsupported_reason,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_identity_of_every_family(family):
    config = tiny_config(family)
    identity = model_identity(config)
    sliding = family in ("gemma2", "gemma3", "gpt_oss")
    assert identity.model_type == config.model_type
    assert identity.num_hidden_layers == 2
    assert list(identity.layers) == full_attention_layers(config) == ([1] if sliding else [0, 1])
    assert set(identity.layers.values()) == {HeadShape(4 if family == "llama_mha" else 2, 16, 16)}
    assert not identity.keys_from_values
    assert unsupported_reason(config) is None
    assert check_identity(identity, identity) is None


def test_identity_is_plain_json():
    identity = model_identity(tiny_config("gemma3"))
    assert json.loads(json.dumps(identity.to_dict())) == {
        "name": "",
        "revision": None,
        "model_type": "gemma3_text",
        "num_hidden_layers": 2,
        "layers": [
            {
                "index": 1,
                "num_key_value_heads": 2,
                "key_head_dim": 16,
                "value_head_dim": 16,
                "keys_from_values": False,
            }
        ],
    }
    assert model_identity(tiny_config("gemma3")) == identity


def test_values_may_be_of_another_size_than_keys():
    config = transformers.MiMoV2FlashConfig(num_hidden_layers=3, head_dim=24, v_head_dim=16, num_key_value_heads=4)
    assert set(head_shapes(config).values()) == {HeadShape(4, 24, 16)}


def test_layers_may_have_heads_of_their_own():
    config = transformers.Gemma4TextConfig(
        num_hidden_layers=6, head_dim=32, global_head_dim=64, num_global_key_value_heads=2, attention_k_eq_v=True
    )
    identity = model_identity(config)
    assert identity.layers == {5: HeadShape(2, 64, 64)}
    assert identity.keys_from_values == {5}
    mixed = tiny_config("llama", per_layer_config={1: {"num_key_value_heads": 4, "head_dim": 8}})
    assert head_shapes(mixed) == {0: HeadShape(2, 16, 16), 1: HeadShape(4, 8, 8)}


def test_missing_fields_are_derived():
    config = transformers.LlamaConfig(hidden_size=96, num_attention_heads=6, num_hidden_layers=1)
    config.head_dim = None
    config.num_key_value_heads = None
    assert head_shapes(config) == {0: HeadShape(6, 16, 16)}


def test_the_language_model_inside_is_what_counts():
    inner = tiny_config("gemma3")
    outer = transformers.Gemma3Config(text_config=inner.to_dict())
    assert text_config(outer).num_attention_heads == 4
    assert text_config(inner) is inner
    assert list(model_identity(outer).layers) == [1]
    assert check_identity(model_identity(inner), model_identity(outer)) is None


def test_a_model_without_full_attention_has_no_layers():
    assert full_attention_layers(tiny_config("mistral", sliding_window=24)) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (transformers.T5Config(), "t5 is an encoder-decoder"),
        (transformers.BartConfig(), "bart is an encoder-decoder"),
        (transformers.WhisperConfig(), "whisper is an encoder-decoder"),
        (transformers.DeepseekV3Config(num_hidden_layers=2), "deepseek_v3 caches latent"),
        (transformers.DeepseekV2Config(num_hidden_layers=2), "deepseek_v2 caches latent"),
        (tiny_config("llama", layer_types=["full_attention", "minimax_m3_sparse"]), "layers 1 (minimax_m3_sparse)"),
        # Dory and Inkling2 Loop exist only in newer versions of transformers.
        (tiny_config("llama", n_recurrent_loops=2), "runs layers several times"),
        (tiny_config("llama", loop_num_passes=3), "runs layers several times"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_unsupported_models_are_named_with_a_remedy(config, words):
    reason = unsupported_reason(config)
    assert words in reason
    assert "Use the default cache" in reason


@pytest.mark.parametrize(
    ("change", "name", "old"),
    [
        ({"num_hidden_layers": 3}, "num_hidden_layers", 2),
        ({"num_key_value_heads": 4}, "num_key_value_heads", 2),
        ({"head_dim": 32}, "key_head_dim", 16),
    ],
    ids=str,
)
def test_a_difference_is_named_with_both_values(change, name, old):
    ours, other = model_identity(tiny_config("llama")), model_identity(tiny_config("llama", **change))
    problem = check_identity(replace(ours, name="org/made-for"), other)
    assert f"{name} {old}" in problem
    assert "org/made-for" in problem
    assert f"has {next(iter(change.values()))}" in problem


def test_each_layer_and_side_is_compared():
    ours = model_identity(tiny_config("llama"))
    for shape in (HeadShape(2, 16, 8), HeadShape(2, 8, 16), HeadShape(1, 16, 16)):
        other = replace(ours, layers={**ours.layers, 1: shape})
        assert "in layer 1" in check_identity(ours, other)
    assert "function of values in layers []" in check_identity(ours, replace(ours, keys_from_values=frozenset({0})))
    assert "model_type 'llama'" in check_identity(ours, replace(ours, model_type="qwen2"))


def test_other_layers_are_a_difference():
    ours = model_identity(tiny_config("gemma3"))
    moved = replace(ours, layers={0: ours.layers[1]})
    assert "covers layers [0], the model's layers with full attention are [1]" in check_identity(moved, ours)


def test_name_revision_and_query_heads_do_not_forbid_use():
    """A fine-tune with added tokens keeps its base model's codebook; the codes do not depend on query heads."""
    ours = model_identity(tiny_config("llama"))
    assert check_identity(replace(ours, name="other", revision="x"), ours) is None
    assert check_identity(ours, model_identity(tiny_config("llama", vocab_size=98, num_attention_heads=8))) is None
