# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`supported`, `vecinfer doctor MODEL` and the line that `enable` logs: which layers hold codes, which not and why."""

import pytest
import torch
import transformers
from model_families import FAMILIES, family_config, family_model, is_available
from tiny_models import tiny_config, tiny_model

from vecinfer_hf import enable, supported
from vecinfer_hf.model_info.support import ranges


def test_every_layer_is_told_with_its_heads_or_the_reason():
    config = family_config("gemma4_e4b")
    found = supported(config)
    assert bool(found)
    assert [use.keeps for use in found.layers] == ["default", "codes", "shared", "shared"]
    assert str(found).splitlines() == [
        "gemma4_text: 1 of 4 layers keep codes",
        "- layers 1: 2 key/value heads, keys of 32, values of 32",
        "- layers 0: sliding window: it keeps 24 tokens at most",
        "- layers 2: reads the keys and values of layer 0",
        "- layers 3: reads the keys and values of layer 1",
    ]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_says_what_its_model_says(family):
    if not is_available(family):
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    by_config, by_model = supported(family_config(family)), supported(family_model(family))
    assert (by_config.reason, by_config.layers, by_config.heads) == (None, by_model.layers, by_model.heads)
    assert bool(by_config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (transformers.T5Config(), "encoder-decoder"),
        (transformers.DeepseekV3Config(num_hidden_layers=2), "latent"),
        (transformers.BloomConfig(), "attention interface"),
        (transformers.DiffLlamaConfig(num_hidden_layers=2), "before its attention"),
        (tiny_config("llama", layer_types=["full_attention", "minimax_m3_sparse"]), "layers 1 (minimax_m3_sparse)"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_a_model_without_codes_is_false_and_says_why(config, words):
    found = supported(config)
    assert not found
    assert words in found.reason
    assert words in str(found)


def test_a_model_without_full_attention_holds_nothing():
    found = supported(tiny_config("mistral", sliding_window=24))
    assert not found
    assert found.reason is None
    assert "Nothing would be quantized" in str(found)


def test_what_cannot_be_asked_without_weights_is_told():
    class Reads(transformers.LlamaConfig):
        model_type = "reads-values"

    found = supported(Reads(**tiny_config("llama").to_diff_dict()))
    assert "no code was asked" in found.note


def test_enable_logs_one_line(caplog):
    transformers.logging.set_verbosity_info()
    try:
        with caplog.at_level("INFO"):
            enable(tiny_model("gemma3"), "online")
    finally:
        transformers.logging.set_verbosity_warning()
    lines = [record.getMessage() for record in caplog.records if "keep codes" in record.getMessage()]
    assert lines == [
        "vecinfer: gemma3_text: 1 of 2 layers keep codes; layers 1: 2 key/value heads, keys of 16, values of 16; "
        "layers 0: sliding window: it keeps 24 tokens at most"
    ]


def test_large_configs_are_examined_without_memory():
    config = transformers.Qwen3NextConfig()
    before = torch.random.get_rng_state()
    assert len(supported(config).heads) == 12
    assert torch.equal(torch.random.get_rng_state(), before)


def test_ranges():
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert ranges([]) == ""
