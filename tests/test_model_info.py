# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""model_identity.py: what a transformers config says, for text models and for models around one."""

import pytest
import transformers
from tiny_models import FAMILIES, tiny_config

from vecinfer_hf.model_info import (
    check_identity,
    full_attention_layers,
    head_dim,
    model_identity,
    num_key_value_heads,
    text_config,
    unsupported_reason,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_identity_of_every_family(family):
    config = tiny_config(family)
    identity = model_identity(config)
    sliding = family in ("gemma2", "gemma3", "gpt_oss")
    assert identity["model_type"] == config.model_type
    assert identity["num_hidden_layers"] == 2
    assert identity["num_attention_heads"] == 4
    assert identity["num_key_value_heads"] == (4 if family == "llama_mha" else 2)
    assert identity["head_dim"] == 16
    assert identity["quantized_layers"] == full_attention_layers(config) == ([1] if sliding else [0, 1])
    assert unsupported_reason(config) is None
    assert check_identity(identity, identity) is None


def test_identity_is_plain_json_and_a_function_of_the_shapes():
    import json

    identity = model_identity(tiny_config("llama"))
    assert json.loads(json.dumps(identity)) == identity
    again = model_identity(tiny_config("llama"))
    assert again == identity
    others = [{"num_hidden_layers": 3}, {"vocab_size": 98}, {"hidden_size": 128}, {"num_key_value_heads": 1}]
    hashes = {model_identity(tiny_config("llama", **change))["shape_hash"] for change in others}
    assert len(hashes | {identity["shape_hash"]}) == 5


def test_missing_fields_are_derived():
    config = transformers.LlamaConfig(hidden_size=96, num_attention_heads=6, num_hidden_layers=1)
    config.head_dim = None
    config.num_key_value_heads = None
    assert head_dim(config) == 16
    assert num_key_value_heads(config) == 6


def test_the_language_model_inside_is_what_counts():
    inner = tiny_config("gemma3")
    outer = transformers.Gemma3Config(text_config=inner.to_dict())
    assert text_config(outer).num_attention_heads == 4
    assert text_config(inner) is inner
    assert model_identity(outer)["quantized_layers"] == [1]
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
        (transformers.Gemma3nTextConfig(), "shares keys and values between layers"),
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
    "change",
    [{"num_hidden_layers": 3}, {"num_attention_heads": 8}, {"num_key_value_heads": 4}, {"head_dim": 32}],
    ids=str,
)
def test_a_difference_is_named_with_both_values(change):
    ours, other = model_identity(tiny_config("llama")), model_identity(tiny_config("llama", **change))
    ((name, value),) = change.items()
    problem = check_identity(ours, other)
    assert name in problem
    assert str(value) in problem
    assert str(ours[name]) in problem


def test_other_layers_and_missing_fields_are_differences():
    ours = model_identity(tiny_config("gemma3"))
    moved = {**ours, "quantized_layers": [0]}
    assert "[0]" in check_identity(moved, ours)
    for name in ("model_type", "head_dim", "quantized_layers"):
        assert check_identity({key: value for key, value in ours.items() if key != name}, ours)


def test_name_revision_and_vocabulary_do_not_forbid_use():
    """A fine-tune with added tokens keeps its base model's codebook."""
    ours = model_identity(tiny_config("llama"))
    assert check_identity({**ours, "name": "other", "revision": "x", "vocab_size": 5, "shape_hash": ""}, ours) is None
