# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""crop is the way back: it removes exactly what it was asked to, or refuses before it removed anything."""

import pytest
import torch
from edge_cases import REFUSED, new_cache, refused, right_or_refused, run, sliding_model, tiny_model
from method_hooks import following
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs

from vecinfer_hf import VecInferCache


pytestmark = pytest.mark.sampled(7)


@pytest.fixture(params=[None, 100], ids=["growing", "static"])
def room(request):
    return request.param


def vecinfer(model):
    model.set_attn_implementation("vecinfer")
    return model


@pytest.mark.parametrize("make", [lambda: tiny_model("llama"), sliding_model, lambda: sliding_model("gemma3")])
@pytest.mark.parametrize("amount", [0, -1, -1000])
def test_an_empty_cache_has_nothing_to_remove(make, amount, room):
    model = vecinfer(make())
    cache = new_cache(model.config, room=room)
    with following(model) as follower:
        right_or_refused(lambda: cache.crop(amount))
        assert int(cache.get_seq_length()) == 0
        run(model, tiny_inputs(2, 20), cache)
        follower.audit(cache)


@pytest.mark.parametrize("make", [lambda: tiny_model("llama"), sliding_model])
@pytest.mark.parametrize("amount", [20, 21, 1000])
def test_as_much_as_there_is_and_more(make, amount, room):
    model = vecinfer(make())
    cache = new_cache(model.config, room=room)
    ids = tiny_inputs(2, 30)
    with following(model) as follower:
        run(model, ids[:, :20], cache)
        state = follower.state(cache)
        if right_or_refused(lambda: cache.crop(-amount)) is REFUSED:
            follower.unchanged(cache, state)
            run(model, ids[:, 20:22], cache)
        else:
            assert int(cache.get_seq_length()) == 0
            run(model, ids[:, :9], cache)
        follower.audit(cache)


@pytest.mark.parametrize("first", ["full_attention", "sliding_attention"])
@pytest.mark.parametrize("held", [8, 12, 13, 40])
@pytest.mark.parametrize("amount", [1, 8])
def test_sliding_layers_go_back_exactly_or_nothing_does(first, held, amount, room):
    """Beyond its window of 12 a sliding layer has forgotten what it would need."""
    second = {"full_attention": "sliding_attention", "sliding_attention": "full_attention"}[first]
    model = vecinfer(tiny_model("gemma2", layer_types=[first, second], sliding_window=12))
    cache = new_cache(model.config, room=room)
    ids = tiny_inputs(2, 60)
    with following(model) as follower:
        run(model, ids[:, :held], cache)
        state = follower.state(cache)
        if right_or_refused(lambda: cache.crop(-amount)) is REFUSED:
            assert held >= 12 or room, "nothing was forgotten yet"
            follower.unchanged(cache, state)
        follower.audit(cache)
        left = int(cache.get_seq_length())
        run(model, ids[:, left : left + 3], cache)
        follower.audit(cache)


def test_a_recording_cache_goes_back_beyond_the_window():
    """Assisted decoding asks sliding layers to keep what a crop needs."""
    model = vecinfer(sliding_model())
    cache = new_cache(model.config)
    ids = tiny_inputs(1, 60)
    with following(model) as follower:
        cache.activate_past_recording()
        run(model, ids[:, :40], cache)
        cache.crop(-3)
        follower.audit(cache)
        run(model, ids[:, 37:45], cache)
        cache.crop(-2)
        run(model, ids[:, 43:44], cache)
        follower.audit(cache)


@pytest.mark.parametrize("window", [12, 24])
@pytest.mark.parametrize("crops", [(3, 2), (20, 20, 3), (0, 20)], ids=str)
def test_a_recording_cache_goes_back_once_for_each_call(crops, window):
    """A crop leaves sliding layers their window alone, so that a second one may find too little."""
    model = vecinfer(sliding_model(sliding_window=window))
    cache = new_cache(model.config)
    ids = tiny_inputs(1, 70)
    with following(model) as follower:
        cache.activate_past_recording()
        run(model, ids[:, :60], cache)
        for amount in crops:
            state = follower.state(cache)
            if right_or_refused(lambda: cache.crop(-amount)) is REFUSED:  # noqa: B023
                follower.unchanged(cache, state)
            follower.audit(cache)
        left = int(cache.get_seq_length())
        assert left == 60 - crops[0]
        run(model, ids[:, left : left + 3], cache)
        follower.audit(cache)


@pytest.mark.parametrize("forget", [lambda cache: None, VecInferCache.reset], ids=["new", "reset"])
def test_an_empty_recording_cache_has_nothing_to_remove(forget):
    model = vecinfer(sliding_model())
    cache = new_cache(model.config)
    ids = tiny_inputs(1, 20)
    with following(model) as follower:
        cache.activate_past_recording()
        if forget is VecInferCache.reset:
            run(model, ids, cache)
        forget(cache)
        cache.crop(0)
        run(model, ids, cache)
        follower.audit(cache)


@pytest.mark.parametrize("amount", [1, 3.5, "2", None, True, torch.tensor([-1, -2])])
def test_what_is_no_number_of_tokens_is_refused(amount, room):
    model = vecinfer(tiny_model("llama"))
    cache = new_cache(model.config, room=room)
    with following(model) as follower:
        run(model, tiny_inputs(1, 20), cache)
        state = follower.state(cache)
        # The wrapped method would look at the amount first.
        refused(lambda: type(cache).crop.__wrapped__(cache, amount))
        follower.unchanged(cache, state)
        follower.audit(cache)


@pytest.mark.parametrize("bits", [2, 4, "d8b10"])
@pytest.mark.parametrize("choice", ["small_values", "first"])
@pytest.mark.parametrize("end", [90, 60, 30, 5, 1])
def test_codes_stay_codes_wherever_a_crop_ends(bits, choice, end, room):
    """Also inside the tokens that sinks were chosen from, where other tokens take the places of sinks cut off."""
    model = vecinfer(tiny_model("llama"))
    codebook = random_codebook(model.config, bits, bits, kind="matrix", mean=True, value_kind="matrix")
    cache = new_cache(model.config, room=room, codebook=codebook, sink_choice=choice, residual_length=6)
    ids = tiny_inputs(2, 100)
    with following(model) as follower:
        run(model, ids[:, :90], cache)
        run(model, ids[:, 90:91], cache)
        cache.crop(end - 91)
        follower.audit(cache)
        run(model, ids[:, end : end + 9], cache)
        follower.audit(cache)


def test_many_crops_do_not_pile_up():
    """Neither recursion nor rounding: what is stored anew many times stays what it was."""
    model = vecinfer(tiny_model("llama"))
    cache = new_cache(model.config, residual_length=4)
    ids = tiny_inputs(1, 60)
    with following(model) as follower:
        run(model, ids[:, :60], cache)
        for _ in range(50):
            cache.crop(-1)
            follower.audit(cache)
        run(model, ids[:, 10:11], cache)
        follower.audit(cache)


@pytest.mark.parametrize("bits", [(4, 2), (2, 2)])
@pytest.mark.parametrize("amount", [10, 40, 112])
def test_a_crop_may_end_among_the_first_tokens_of_one_row_alone(bits, amount, room):
    """A padded row is cropped among the tokens that sinks were chosen from, a longer one behind them."""
    model = vecinfer(tiny_model("llama"))
    room = None if room is None else 140
    codebook = random_codebook(model.config, *bits, kind="matrix", mean=True, value_kind="matrix")
    cache = new_cache(model.config, room=room, codebook=codebook, residual_length=4, sink_length=1)
    ids, mask = tiny_inputs(2, 125), torch.ones(2, 125, dtype=torch.long)
    mask[1, :60] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)

    def feed(first, last):
        run(model, ids[:, first:last], cache, attention_mask=mask[:, :last], position_ids=positions[:, first:last])

    with following(model) as follower:
        feed(0, 82)
        feed(82, 116)
        cache.crop(-amount)
        follower.audit(cache)
        feed(116 - amount, 125 - amount)
        follower.audit(cache)
