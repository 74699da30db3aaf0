# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""recorder.py: what is recorded is what a cache holds after the sinks, sampled and bounded."""

import pytest
import torch
from calibration_texts import IDS
from tiny_models import tiny_model
from transformers import DynamicCache

from vecinfer_hf.calibration.attention import attention_function
from vecinfer_hf.calibration.recorder import record_states, sample_tokens
from vecinfer_hf.errors import ConfigError, UnsupportedModelError
from vecinfer_hf.integration.compat import cache_argument
from vecinfer_hf.model_info import full_attention_layers


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_recorded_states_are_what_the_cache_holds_after_the_sinks(family):
    model = tiny_model(family)
    rows = IDS[:80].view(2, 40)
    layers = full_attention_layers(model.config)
    states = record_states(model, rows, layers, sink_length=3, num_samples=1000)
    for index in layers:
        keys, values = [], []
        for row in rows:
            cache = DynamicCache(config=model.config)
            model(row[None], **cache_argument(cache))
            keys.append(cache.layers[index].keys[0, :, 3:])
            values.append(cache.layers[index].values[0, :, 3:])
        # Same arithmetic, but SDPA and the model's own attention round differently in the layers below.
        torch.testing.assert_close(states[index].keys, torch.cat(keys, 1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(states[index].values, torch.cat(values, 1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(states[index].key_absmax, states[index].keys.abs().amax(1))


def test_the_query_moment_belongs_to_the_heads_own_group():
    model, seen = tiny_model(), {}

    def watch(module, query, key, value, attention_mask, scaling, **kwargs):
        seen[module.layer_idx] = query[0, :, 3:]
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        ).transpose(1, 2)

    with attention_function(model, watch), torch.no_grad():
        model(IDS[None, :50])
    states = record_states(model, IDS[None, :50], [0], sink_length=3)
    queries = seen[0][2:4].reshape(-1, 16)
    torch.testing.assert_close(states[0].query_moment[1], queries.T @ queries / len(queries))


def test_samples_are_bounded_and_whole_windows_count_for_the_moments():
    windows = IDS[:600].view(5, 120)
    few, all_ = (record_states(tiny_model(), windows, [0, 1], num_samples=samples) for samples in (50, 10**4))
    assert few[0].keys.shape == few[1].values.shape == (2, 50, 16)
    assert all_[0].keys.shape == (2, 5 * 116, 16)
    assert torch.equal(few[0].key_absmax, all_[0].key_absmax)
    assert torch.equal(few[0].query_moment, all_[0].query_moment)


def test_samples_are_drawn_per_window_without_repetition():
    parts = sample_tokens(3, 10, 12, torch.Generator().manual_seed(0))
    assert len(parts) == 3
    assert sum(map(len, parts)) == 12
    for part in parts:
        assert torch.equal(part, part.unique())
        assert len(part) == 0 or (part.min() >= 0 and part.max() < 10)


def test_windows_of_sinks_alone_are_refused():
    with pytest.raises(ConfigError, match="4 tokens leave none"):
        record_states(tiny_model(), IDS[:8].view(2, 4), [0])


def test_layers_that_never_call_their_attention_are_named():
    with pytest.raises(UnsupportedModelError, match=r"Layers \[5, 7\] of LlamaForCausalLM never called"):
        record_states(tiny_model(), IDS[None, :40], [0, 5, 7])
