# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Models that cannot have codes yet, or only in part: right, or refused by a sentence of this package."""

import pytest
import torch
from edge_cases import REFUSED, greedy, right_or_refused
from tiny_models import tiny_inputs
from transformers import AutoModelForCausalLM, DiffLlamaConfig, DiffLlamaForCausalLM, Gemma4TextConfig

import vecinfer_hf
from vecinfer_hf import CalibrationConfig, VecInferCache, VecInferConfig


ONLINE = VecInferConfig(codebook="online", ops_backend="reference", residual_length=4096)


def test_a_model_that_hands_cached_keys_to_torch_functions():
    """DiffLlama splits the values between the cache and its attention function."""
    config = DiffLlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = DiffLlamaForCausalLM(config).eval()
    ids = tiny_inputs(1, 60)
    want = greedy(model, ids, new=3)
    got = right_or_refused(lambda: greedy(vecinfer_hf.enable(model, ONLINE), ids, new=3))
    assert got is REFUSED or torch.equal(got, want)
    model = DiffLlamaForCausalLM(config).eval()
    cache = right_or_refused(lambda: VecInferCache(model.config, "online"))
    if cache is not REFUSED:
        got = right_or_refused(lambda: greedy(model, ids, cache, new=3))
        assert got is REFUSED or got.shape == want.shape


@pytest.mark.parametrize("advice", [False, True])
def test_a_model_with_larger_heads_in_full_attention(advice):
    """Gemma 4: its config holds no single head size; the refusal is ours, whatever transformers advises."""
    config = Gemma4TextConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        global_head_dim=32,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=24,
        num_kv_shared_layers=0,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=97,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    if advice:
        model.config.allow_global_per_layer_attribute_access = True
    ids = tiny_inputs(1, 600)
    model.generation_config.eos_token_id = None
    want = greedy(model, ids[:, :60], new=3)
    got = right_or_refused(lambda: greedy(vecinfer_hf.enable(model, ONLINE), ids[:, :60], new=3), own=True)
    assert got is REFUSED or torch.equal(got, want)
    calibrate = CalibrationConfig(sequence_length=300, num_tokens=600, num_iterations=1, recipe="query")
    right_or_refused(lambda: vecinfer_hf.calibrate(model, ids, config=calibrate), own=True)


def test_an_image_inside_a_prompt():
    """Attention inside an image goes both ways; the first prompt is exact, so it is right or refused."""
    import transformers

    text = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "head_dim": 32,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "sliding_window": 64,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=500,
        boi_token_index=502,
        eoi_token_index=503,
    )
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    model.generation_config.eos_token_id = None
    ids = torch.tensor([[5, 6, 502] + [500] * 4 + [503] + list(range(10, 100))])
    arguments = {
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, 56, 56),
        "token_type_ids": (ids == 500).long(),
    }
    want = greedy(model, ids, new=12, **arguments)
    got = right_or_refused(lambda: greedy(vecinfer_hf.enable(model, ONLINE), ids, new=12, **arguments))
    assert got is REFUSED or torch.equal(got, want)
