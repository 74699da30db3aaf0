# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Caches with recurrent and convolution states beside layers of codes: rows, crops, sizes, passes that end early."""

import copy
import pickle

import pytest
import torch
from edge_cases import new_cache, run
from model_families import family_model
from tiny_models import tiny_inputs

from vecinfer_hf import CacheStateError, UnsupportedCallError
from vecinfer_hf.cache.hybrid_layer import VecInferHybridLayer
from vecinfer_hf.evaluation.memory import cache_nbytes


RECURRENT = ["qwen3_next", "falcon_h1"]
"""Linear layers beside attention, and both in one layer."""


def filled(family="qwen3_next", rows=2, tokens=20):
    """Return a model with vecinfer attention and a cache of `tokens` tokens, 8 of which are exact."""
    model = family_model(family)
    model.set_attn_implementation("vecinfer")
    cache = new_cache(model.config)
    run(model, tiny_inputs(rows, tokens), cache)
    return model, cache


@pytest.mark.parametrize("family", RECURRENT)
def test_rows_move_in_every_kind_of_layer(family):
    model, cache = filled(family)
    selected, repeated, reordered = (copy.deepcopy(cache) for _ in range(3))
    selected.batch_select_indices(torch.tensor([1]))
    repeated.batch_repeat_interleave(2)
    reordered.reorder_cache(torch.tensor([1, 0]))
    tokens = tiny_inputs(2, 3, seed=1)
    plain = run(model, tokens, cache)
    assert torch.allclose(run(model, tokens[1:], selected), plain[1:], atol=1e-4)
    assert torch.allclose(run(model, tokens[[0, 0, 1, 1]], repeated), plain[[0, 0, 1, 1]], atol=1e-4)
    assert torch.allclose(run(model, tokens[[1, 0]], reordered), plain[[1, 0]], atol=1e-4)


@pytest.mark.parametrize("family", RECURRENT)
def test_a_crop_is_refused_by_name_before_anything_changes(family):
    model, cache = filled(family)
    other = copy.deepcopy(cache)
    with pytest.raises(UnsupportedCallError, match="Layer 0 .*recurrent state.*cannot go back by 3 tokens.*reset"):
        cache.crop(-3)
    tokens = tiny_inputs(2, 2, seed=1)
    assert torch.equal(run(model, tokens, cache), run(model, tokens, other))


def test_recorded_convolutions_can_be_cropped():
    """LFM2 has convolutions and no recurrent state."""
    model = family_model("lfm2")
    model.set_attn_implementation("vecinfer")
    ids = tiny_inputs(1, 30)
    plain, cropped = new_cache(model.config, exact=True), new_cache(model.config, exact=True)
    run(model, ids[:, :24], plain)
    expected = run(model, ids[:, 24:], plain)
    run(model, ids[:, :20], cropped)
    with pytest.raises(UnsupportedCallError, match=r"Layer 0 .*convolution state.*activate_past_recording"):
        cropped.crop(-3)
    cropped.activate_past_recording()
    run(model, torch.cat([ids[:, 20:24], tiny_inputs(1, 3, seed=9)], 1), cropped)
    cropped.crop(-3)
    assert torch.allclose(run(model, ids[:, 24:], cropped), expected, atol=1e-4)
    with pytest.raises(UnsupportedCallError, match="convolution state"):
        cropped.crop(-12)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_pass_that_ends_midway_is_noticed_and_reset_repairs(layer):
    model, cache = filled(rows=1)
    fresh = run(model, tiny_inputs(1, 5), new_cache(model.config))

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    broken = model.model.layers[layer].mlp
    broken.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        run(model, tiny_inputs(1, 3), cache)
    broken._forward_pre_hooks.clear()
    if layer < 2:
        with pytest.raises(CacheStateError, match=r"recurrent states of layers \[0, 2\] cannot go back.*reset"):
            run(model, tiny_inputs(1, 3), cache)
        with pytest.raises(UnsupportedCallError, match="recurrent state"):
            cache.crop(-3)
    cache.reset()
    assert torch.allclose(run(model, tiny_inputs(1, 5), cache), fresh, atol=1e-5)


def test_another_number_of_rows_is_refused_before_any_state_changes():
    model, cache = filled()
    other = copy.deepcopy(cache)
    with pytest.raises(UnsupportedCallError, match="holds 2 rows and the call has 3"):
        run(model, tiny_inputs(3, 2), cache)
    assert torch.equal(run(model, tiny_inputs(2, 1), cache), run(model, tiny_inputs(2, 1), other))


@pytest.mark.parametrize("family", RECURRENT)
def test_states_are_counted_copied_and_pickled(family):
    model, cache = filled(family)
    assert cache.nbytes == cache_nbytes(cache)
    again = pickle.loads(pickle.dumps(cache))
    tokens = tiny_inputs(2, 2, seed=1)
    assert torch.equal(run(model, tokens, again), run(model, tokens, cache))


def test_a_layer_with_both_holds_codes_and_a_state():
    _, cache = filled("falcon_h1")
    assert {type(layer) for layer in cache.layers} == {VecInferHybridLayer}
    for layer in cache.layers:
        assert max(layer.storage.quantized) > 0
        assert layer.recurrent_states[0].abs().max() > 0
    cache.reset()
    assert not any(layer.has_previous_state[0] or layer.is_initialized for layer in cache.layers)
