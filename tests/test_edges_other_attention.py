# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A cache under the model's own attention, sdpa or eager: it is right, padding included, or it is refused."""

import pytest
import torch
from edge_cases import REFUSED, new_cache, right_or_refused, run, sliding_model, tiny_model
from method_hooks import following
from tiny_models import tiny_inputs


pytestmark = pytest.mark.sampled(5)


STOCK = {"llama": "sdpa", "gemma3": "sdpa", "gpt_oss": "eager"}


def stock_model(family):
    return tiny_model(family, attn_implementation=STOCK[family])


def padded_call(model, cache, ids, mask, start, end):
    position_ids = (mask.cumsum(1) - 1).clamp_min(0)[:, start:end]
    arguments = {"attention_mask": mask[:, :end], "position_ids": position_ids}
    return run(model, ids[:, start:end], cache, **arguments)


@pytest.mark.parametrize("family", STOCK)
@pytest.mark.parametrize("room", [None, 90], ids=["growing", "static"])
@pytest.mark.parametrize("attention", ["vecinfer", "stock"])
@pytest.mark.parametrize("padding", ["left", "right", "holes", "none"])
def test_each_row_of_a_padded_batch_is_as_it_is_alone(family, room, attention, padding):
    """Every layer's output is compared with METHOD.md, in which padding is never stored and takes no sinks."""
    model = stock_model(family)
    if attention == "vecinfer":
        model.set_attn_implementation("vecinfer")
    ids = tiny_inputs(3, 80)
    mask = torch.ones(3, 80, dtype=torch.long)
    if padding == "left":
        mask[0, :30], mask[1, :3] = 0, 0
    elif padding == "right":
        mask[0, 20:50], mask[1, 48:50] = 0, 0
    elif padding == "holes":
        mask[0, 5:9], mask[1, ::3] = 0, 0
        mask[1, 50:] = 1
    cache = new_cache(model.config, room=room)
    with following(model) as follower:
        pieces = [(0, 50), (50, 51), (51, 56), (56, 80)]
        for start, end in pieces:
            state = follower.state(cache)
            call = lambda start=start, end=end: padded_call(model, cache, ids, mask, start, end)  # noqa: E731
            if right_or_refused(call) is REFUSED:
                assert attention == "stock"
                follower.unchanged(cache, state)
                break
            follower.audit(cache)


@pytest.mark.parametrize("family", STOCK)
@pytest.mark.parametrize("room", [None, 90], ids=["growing", "static"])
def test_attention_that_changes_between_calls(family, room):
    """Filled under vecinfer attention, read under the model's own, and the other way round."""
    model = stock_model(family)
    own = model.config._attn_implementation
    ids = tiny_inputs(2, 80)
    mask = torch.ones(2, 80, dtype=torch.long)
    mask[0, :9] = 0
    cache = new_cache(model.config, room=room)
    with following(model) as follower:
        start = 0
        for attention, end in (("vecinfer", 40), (own, 41), (own, 60), ("vecinfer", 61), (own, 62), ("vecinfer", 80)):
            model.set_attn_implementation(attention)
            state = follower.state(cache)
            call = lambda start=start, end=end: padded_call(model, cache, ids, mask, start, end)  # noqa: E731
            if right_or_refused(call) is REFUSED:
                assert attention != "vecinfer"
                follower.unchanged(cache, state)
                continue
            follower.audit(cache)
            start = end


@pytest.mark.parametrize("room", [None, 90], ids=["growing", "static"])
@pytest.mark.parametrize("make", [lambda: tiny_model("llama", attn_implementation="sdpa"), sliding_model])
def test_a_refused_call_under_another_attention_can_be_made_again(make, room):
    model = make()
    ids = tiny_inputs(2, 50)
    cache = new_cache(model.config, room=room)
    with following(model) as follower:
        state = follower.state(cache)
        if right_or_refused(lambda: run(model, ids[:, :40], cache)) is REFUSED:
            follower.unchanged(cache, state)
            model.set_attn_implementation("vecinfer")
            run(model, ids[:, :40], cache)
        run(model, ids[:, 40:], cache)
        follower.audit(cache)


def test_a_whole_row_of_padding_and_a_row_that_begins_later():
    """The first chunk of a long left-padded row is all padding: its text begins in a later call."""
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    ids = tiny_inputs(2, 80)
    mask = torch.ones(2, 80, dtype=torch.long)
    mask[0, :35] = 0
    cache = new_cache(model.config)
    with following(model) as follower:
        for start in range(0, 80, 16):
            padded_call(model, cache, ids, mask, start, start + 16)
            follower.audit(cache)
