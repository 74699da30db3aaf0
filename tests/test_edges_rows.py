# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Rows that become more, fewer or others: what is possible is right, what is not is refused with a sentence."""

import pytest
import torch
from edge_cases import REFUSED, greedy, new_cache, refused, right_or_refused, run, sliding_model, tiny_model
from method_hooks import following
from tiny_models import tiny_inputs

from vecinfer_hf.integration.compat import cache_argument


pytestmark = pytest.mark.sampled(4)


ROOMS = pytest.mark.parametrize("room", [None, 120], ids=["growing", "static"])
MODELS = pytest.mark.parametrize("make", [lambda: tiny_model("llama"), sliding_model], ids=["full", "sliding"])


def vecinfer(make):
    model = make()
    model.set_attn_implementation("vecinfer")
    return model


def padded(batch, length, left):
    """Return a mask whose first row is left-padded by `left`."""
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[0, :left] = 0
    return mask


@ROOMS
@MODELS
@pytest.mark.parametrize(
    "how",
    [{"num_return_sequences": 3, "do_sample": True}, {"num_beams": 3, "do_sample": False}],
    ids=["samples", "beams"],
)
def test_a_prompt_cached_once_and_continued_by_several(how, make, room):
    """The cache holds one row, generate wants three."""
    model, ids = make(), tiny_inputs(1, 60)
    with following(model) as follower:
        cache = new_cache(model.config, room=room)
        model.set_attn_implementation("vecinfer")
        run(model, ids[:, :-1], cache)
        state = follower.state(cache)
        output = right_or_refused(lambda: model.generate(ids, max_new_tokens=3, **how, **cache_argument(cache)))
        if output is REFUSED:
            follower.unchanged(cache, state)
            follower.audit(cache)
        else:
            assert output.shape[1] == 63


@MODELS
def test_a_prompt_cached_once_and_repeated_by_hand(make):
    """What the refusal advises works."""
    model, ids = make(), tiny_inputs(1, 60)
    with following(model) as follower:
        cache = new_cache(model.config)
        model.set_attn_implementation("vecinfer")
        run(model, ids[:, :-1], cache)
        cache.batch_repeat_interleave(3)
        assert greedy(model, ids.expand(3, -1), cache, new=3).shape == (3, 63)
        follower.audit(cache)


@ROOMS
@MODELS
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("tokens", [1, 30])
def test_a_call_of_another_number_of_rows_is_refused(make, room, rows, tokens):
    model, ids = vecinfer(make), tiny_inputs(3, 60)
    with following(model) as follower:
        cache = new_cache(model.config, room=room)
        run(model, ids[:, :20], cache)
        state = follower.state(cache)
        position_ids = torch.arange(20, 20 + tokens)[None]
        call = lambda: run(model, tiny_inputs(rows, tokens, seed=1), cache, position_ids=position_ids)  # noqa: E731
        refused(call, "rows", "3", str(rows))
        follower.unchanged(cache, state)
        run(model, ids[:, 20:22], cache)
        follower.audit(cache)


@ROOMS
@MODELS
@pytest.mark.parametrize("how", ["select", "reorder", "boolean"])
def test_a_batch_whose_padded_rows_have_left_needs_no_mask(make, room, how):
    model, ids = vecinfer(make), tiny_inputs(3, 60)
    mask = padded(3, 60, 9)
    with following(model) as follower:
        cache = new_cache(model.config, room=room)
        run(model, ids[:, :40], cache, attention_mask=mask[:, :40])
        rows = {"select": [2, 1], "reorder": [2, 1, 2], "boolean": [1, 2]}[how]
        if room and len(rows) != 3:
            rows = [2, 1, 2]
        index = torch.tensor(rows)
        if how == "reorder":
            cache.reorder_cache(index)
        else:
            if how == "boolean" and not room:
                index = torch.tensor([False, True, True])
            if right_or_refused(lambda: cache.batch_select_indices(index)) is REFUSED:
                return
        follower.audit(cache)
        run(model, ids[rows, 40:43], cache)
        run(model, ids[rows, 43:44], cache, attention_mask=mask[rows, :44])
        follower.audit(cache)
        greedy(model, ids[rows, :50], cache, new=2)
        follower.audit(cache)


@ROOMS
def test_a_batch_whose_padding_was_cropped_needs_no_mask(room):
    """The padding stood on the right, in the columns that are removed."""
    model, ids = vecinfer(lambda: tiny_model("llama")), tiny_inputs(3, 60)
    mask = torch.ones(3, 60, dtype=torch.long)
    mask[0, 31:40] = 0
    with following(model) as follower:
        cache = new_cache(model.config, room=room)
        run(model, ids[:, :40], cache, attention_mask=mask[:, :40])
        cache.crop(-10)
        run(model, ids[:, 30:33], cache)
        follower.audit(cache)


@ROOMS
def test_a_batch_that_was_reset_needs_no_mask(room):
    model, ids = vecinfer(lambda: tiny_model("llama")), tiny_inputs(3, 60)
    with following(model) as follower:
        cache = new_cache(model.config, room=room)
        run(model, ids[:, :40], cache, attention_mask=padded(3, 40, 9))
        cache.reset()
        run(model, ids[:, :40], cache)
        run(model, ids[:, 40:43], cache)
        follower.audit(cache)


@ROOMS
@pytest.mark.parametrize("tokens", [1, 5, 30])
def test_one_padded_row_alone_is_not_a_batch_without_padding(room, tokens):
    """The others left; what is left is padded and needs its mask."""
    model, ids = vecinfer(lambda: tiny_model("llama")), tiny_inputs(2, 80)
    mask = padded(2, 80, 9)
    with following(model) as follower:
        cache = new_cache(model.config, room=room)
        run(model, ids[:, :40], cache, attention_mask=mask[:, :40])
        rows = [0, 0] if room else [0]
        cache.reorder_cache(torch.tensor(rows))
        state = follower.state(cache)
        refused(lambda: run(model, ids[rows, 40 : 40 + tokens], cache), "mask")
        follower.unchanged(cache, state)
        run(model, ids[rows, 40 : 40 + tokens], cache, attention_mask=mask[rows, : 40 + tokens])
        follower.audit(cache)


@ROOMS
@MODELS
@pytest.mark.parametrize("rows", [[], [0], [0, 1, 2, 0]])
@pytest.mark.parametrize("operation", ["reorder_cache", "batch_select_indices"])
def test_fewer_and_more_rows_by_selection(make, room, rows, operation):
    """A growing cache takes any selection but none; a static one keeps its number of rows."""
    model, ids = vecinfer(make), tiny_inputs(3, 60)
    with following(model) as follower:
        cache = new_cache(model.config, room=room)
        run(model, ids[:, :20], cache)
        state = follower.state(cache)
        if right_or_refused(lambda: getattr(cache, operation)(torch.tensor(rows, dtype=torch.long))) is REFUSED:
            assert room or not rows
            follower.unchanged(cache, state)
            rows = [0, 1, 2]
        assert rows, "a cache without rows was made"
        run(model, ids[rows, 20:22], cache)
        follower.audit(cache)


@ROOMS
@pytest.mark.parametrize("repeats", [0, -1, 1.5, None])
def test_repeats_that_are_no_number_of_rows_are_refused(room, repeats):
    model, ids = vecinfer(lambda: tiny_model("llama")), tiny_inputs(2, 60)
    with following(model) as follower:
        cache = new_cache(model.config, room=room)
        run(model, ids[:, :20], cache)
        state = follower.state(cache)
        refused(lambda: cache.batch_repeat_interleave(repeats))
        follower.unchanged(cache, state)
        run(model, ids[:, 20:22], cache)
        follower.audit(cache)


@ROOMS
@MODELS
def test_a_static_cache_that_cannot_repeat_its_rows_keeps_them(make, room):
    """All layers or none: the sliding layers come after layers of codes."""
    model, ids = vecinfer(make), tiny_inputs(2, 60)
    with following(model) as follower:
        cache = new_cache(model.config, room=room)
        run(model, ids[:, :20], cache)
        state, rows = follower.state(cache), [0, 0, 1, 1]
        if right_or_refused(lambda: cache.batch_repeat_interleave(2)) is REFUSED:
            follower.unchanged(cache, state)
            rows = [0, 1]
        run(model, ids[rows, 20:22], cache)
        follower.audit(cache)


@ROOMS
@pytest.mark.parametrize("end", [0, 5])
def test_another_batch_after_a_crop_to_nothing(room, end):
    """An empty cache may take any batch or say that it is made for another one."""
    model, ids = vecinfer(lambda: tiny_model("llama")), tiny_inputs(3, 60)
    with following(model) as follower:
        cache = new_cache(model.config, room=room)
        run(model, ids[:, :20], cache)
        cache.crop(end - 20)
        state = follower.state(cache)
        result = right_or_refused(lambda: run(model, tiny_inputs(2, 20), cache))
        if result is REFUSED:
            follower.unchanged(cache, state)
            run(model, ids[:, end:20], cache)
        else:
            assert end == 0
        follower.audit(cache)


@ROOMS
def test_another_batch_after_a_reset(room):
    model, ids = vecinfer(lambda: tiny_model("llama")), tiny_inputs(3, 60)
    with following(model) as follower:
        cache = new_cache(model.config, room=room)
        run(model, ids[:, :20], cache)
        cache.reset()
        result = right_or_refused(lambda: run(model, tiny_inputs(2, 20), cache))
        assert result is not REFUSED or room, "a growing cache forgets its rows"
        if result is not REFUSED:
            follower.audit(cache)


@ROOMS
def test_a_call_without_tokens_changes_nothing(room):
    model, ids = vecinfer(lambda: tiny_model("llama")), tiny_inputs(2, 60)
    with following(model) as follower:
        cache = new_cache(model.config, room=room)
        run(model, ids[:, :20], cache)
        state = follower.state(cache)
        with pytest.raises(RuntimeError):
            # The model itself cannot.
            run(model, ids[:, 20:20], cache)
        follower.unchanged(cache, state)
        run(model, ids[:, 20:22], cache)
        follower.audit(cache)
