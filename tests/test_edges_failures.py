# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Calls that fail or are refused: what can be judged is refused before anything is stored, the rest is repaired."""

import copy
import functools
import pickle

import pytest
import torch
from edge_cases import greedy, new_cache, refused, run, tiny_model
from failing_calls import KINDS, MODELS, go_on, make_model
from method_follower import Injection
from method_hooks import following
from tiny_models import tiny_inputs
from transformers import DynamicCache

from vecinfer_hf.integration.compat import cache_argument


pytestmark = pytest.mark.sampled(13)


@pytest.fixture(params=MODELS)
def model(request):
    return make_model(request.param)


@pytest.fixture(params=KINDS)
def cache(request, model):
    return new_cache(model.config, room=100 if request.param == "static" else None)


def wrong_rows(model, cache):
    run(model, tiny_inputs(3, 3, seed=5), cache)


def one_row(model, cache):
    run(model, tiny_inputs(1, 3, seed=5), cache)


def hidden_token(model, cache):
    mask = torch.ones(2, 43, dtype=torch.long)
    mask[0, 9] = 0
    run(model, tiny_inputs(2, 3, seed=5), cache, attention_mask=mask)


def shown_padding(model, cache):
    run(model, tiny_inputs(2, 3, seed=5), cache, attention_mask=torch.ones(2, 43, dtype=torch.long))


def no_mask(model, cache):
    run(model, tiny_inputs(2, 3, seed=5), cache)


def tree(model, cache):
    """Two continuations of one text in one call, by a mask of four dimensions."""
    mask = torch.ones(4, 44, dtype=torch.bool).tril(40)
    mask[2:, 40:42] = False
    mask = mask.expand(2, 1, -1, -1)
    # A sliding layer of 12 hands out 11 columns and the new ones.
    near = mask[..., -15:] & torch.ones(4, 15, dtype=torch.bool).triu()
    if cache.is_compileable:
        mask = torch.nn.functional.pad(mask, (0, 100 - 44))
    masks = {"full_attention": mask, "sliding_attention": near} if any(cache.is_sliding) else mask
    run(model, tiny_inputs(2, 4, seed=5), cache, attention_mask=masks)


@pytest.mark.parametrize("wrong", [wrong_rows, one_row, hidden_token, tree])
def test_a_refused_call_leaves_no_trace(model, cache, wrong):
    ids = tiny_inputs(2, 60)
    with following(model) as follower:
        run(model, ids[:, :40], cache)
        state = follower.state(cache)
        refused(lambda: wrong(model, cache))
        follower.unchanged(cache, state)
        follower.audit(cache)
        run(model, ids[:, 40:43], cache)
        run(model, ids[:, 43:44], cache)
        follower.audit(cache)


@pytest.mark.parametrize("wrong", [shown_padding, no_mask])
def test_a_refused_call_of_padded_rows_leaves_no_trace(model, cache, wrong):
    ids = tiny_inputs(2, 60)
    mask = torch.ones(2, 60, dtype=torch.long)
    mask[0, :7] = 0
    position_ids = (mask.cumsum(1) - 1).clamp_min(0)
    with following(model) as follower:
        run(model, ids[:, :40], cache, attention_mask=mask[:, :40], position_ids=position_ids[:, :40])
        state = follower.state(cache)
        refused(lambda: wrong(model, cache), "mask")
        follower.unchanged(cache, state)
        run(model, ids[:, 40:43], cache, attention_mask=mask[:, :43], position_ids=position_ids[:, 40:43])
        follower.audit(cache)


@pytest.mark.parametrize("held", [0, 5, 40])
@pytest.mark.parametrize("shape", [(2, 1, 3, 2), (3, 1, 3, None), (2, 1, 7, None), (2, 5, 3, None), (2, 1, 3, 200)])
def test_a_mask_of_another_shape_leaves_no_trace(model, cache, shape, held):
    """In a layer of either kind, also where the first layers store what they are given before they attend."""
    ids, rows = tiny_inputs(2, 60), 3 if held == 0 and shape[0] == 2 else 2
    logits = []
    for each in (copy.deepcopy(cache), cache):
        if held:
            run(model, ids[:, :held], each)
        if each is cache:
            wrong = torch.ones(*shape[:3], held + 3 if shape[3] is None else shape[3], dtype=torch.bool)
            call = functools.partial(run, model, tiny_inputs(rows, 3, seed=5), cache, attention_mask=wrong)
            refused(call, "mask", "shape")
        logits.append(run(model, ids[:, held : held + 4], each))
    assert torch.equal(*logits)


def test_a_mask_that_fits_the_first_layer_alone(cache, model):
    """One mask of four dimensions for layers of two kinds: the second kind refuses it, and says what it needs."""
    if not any(cache.is_sliding):
        pytest.skip("layers of one kind")
    ids = tiny_inputs(2, 60)
    width = 43 if not cache.is_sliding[0] else 14
    mask = torch.ones(3, width, dtype=torch.bool).tril(width - 3).expand(2, 1, -1, -1)
    run(model, ids[:, :40], cache)
    twin = copy.deepcopy(cache)
    refused(lambda: run(model, ids[:, 40:43], cache, attention_mask=mask), "mask", "shape")
    if cache.is_sliding[0]:
        assert torch.equal(run(model, ids[:, 40:43], cache), run(model, ids[:, 40:43], twin))
    else:
        # The first layer has stored the call.
        refused(lambda: run(model, ids[:, 40:43], cache), "crop(-3)")


def test_a_first_call_under_other_attention_leaves_the_number_of_rows_open(model, cache):
    with following(model) as follower:
        state = follower.state(cache)
        model.set_attn_implementation("eager")
        refused(lambda: run(model, tiny_inputs(3, 20), cache))
        model.set_attn_implementation("vecinfer")
        follower.unchanged(cache, state)
        run(model, tiny_inputs(2, 20), cache)
        run(model, tiny_inputs(2, 1), cache)
        follower.audit(cache)


@pytest.mark.parametrize("already", [0, 40, 99])
def test_an_overflow_is_refused_before_anything_is_stored(model, already):
    cache = new_cache(model.config, room=100)
    ids = tiny_inputs(2, 120)
    with following(model) as follower:
        if already:
            run(model, ids[:, :already], cache)
        state = follower.state(cache)
        refused(lambda: run(model, ids[:, already : already + 101 - already], cache), "max_cache_len", "100")
        follower.unchanged(cache, state)
        run(model, ids[:, already : already + 1], cache)
        follower.audit(cache)


def test_an_overflow_inside_generate_leaves_a_cache_that_goes_on(model):
    cache = new_cache(model.config, room=50)
    ids = tiny_inputs(1, 45)
    with following(model) as follower:
        refused(lambda: greedy(model, ids, cache, new=20), "max_cache_len")
        assert int(cache.get_seq_length()) == 50
        follower.audit(cache)


def test_token_ids_out_of_the_vocabulary_change_nothing(model, cache):
    ids = tiny_inputs(2, 60)
    with following(model) as follower:
        run(model, ids[:, :40], cache)
        with pytest.raises(IndexError):
            run(model, torch.full((2, 3), 1000), cache)
        run(model, ids[:, 40:43], cache)
        follower.audit(cache)


def fail_inside(model, cache, layer, place, held, count, repair):
    """Raise an error at one place of one layer, in a call of `count` tokens behind `held`, and use the cache again."""
    ids = tiny_inputs(2, 80)
    with following(model) as follower:
        if held:
            run(model, ids[:, :held], cache)
        follower.injection = Injection(torch.OutOfMemoryError("as asked for"), layer, place)
        with pytest.raises(torch.OutOfMemoryError):
            run(model, ids[:, held : held + count], cache)
        go_on(model, cache, follower, ids, held, repair)


PROMPT, TOKEN, TURN = (0, 40), (40, 1), (40, 25)


@pytest.mark.parametrize("place", Injection.PLACES)
@pytest.mark.parametrize(
    ("columns", "repair"),
    [(PROMPT, "crop"), (TOKEN, "retry"), (TURN, "crop"), (TURN, "retry"), (PROMPT, "reset")],
    ids=["prompt-crop", "token-retry", "turn-crop", "turn-retry", "prompt-reset"],
)
def test_an_error_inside_any_layer(model, cache, place, columns, repair):
    last = len(cache.layers) - 1
    for layer in range(last + 1):
        # Behind the last layer's attention all layers have the call.
        if layer < last or place != "after attention":
            cache.reset()
            fail_inside(model, cache, layer, place, *columns, repair)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "gpt_oss"])
@pytest.mark.parametrize("repair", ["retry", "crop", "reset"])
@pytest.mark.parametrize("place", Injection.PLACES)
@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("room", [None, 100], ids=KINDS)
def test_an_error_inside_any_layer_of_many(family, layer, place, repair, room):
    types = ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    model = tiny_model(family, num_hidden_layers=5, layer_types=types, sliding_window=12)
    model.set_attn_implementation("vecinfer")
    for columns in (PROMPT, TOKEN, TURN, (5, 3), (5, 40)):
        fail_inside(model, new_cache(model.config, room=room), layer, place, *columns, repair)


@pytest.mark.parametrize("place", ["before update", "after update", "before attention"])
def test_errors_in_two_calls_in_a_row(model, cache, place):
    ids = tiny_inputs(2, 80)
    with following(model) as follower:
        run(model, ids[:, :40], cache)
        for layer in (1, 0):
            follower.injection = Injection(torch.OutOfMemoryError("as asked for"), layer, place)
            with pytest.raises((torch.OutOfMemoryError, RuntimeError)):
                run(model, ids[:, 40:43], cache)
            follower.injection = None
        go_on(model, cache, follower, ids, 40, "crop")


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("repair", ["retry", "crop", "reset"])
def test_a_copy_of_a_cache_whose_call_failed(model, cache, how, repair):
    """The copy knows as much as the cache."""
    ids = tiny_inputs(2, 80)
    with following(model) as follower:
        run(model, ids[:, :40], cache)
        follower.injection = Injection(torch.OutOfMemoryError("as asked for"), 1, "before attention")
        with pytest.raises(torch.OutOfMemoryError):
            run(model, ids[:, 40:45], cache)
        twin = how(cache)
        follower.copied(cache, twin)
        go_on(model, twin, follower, ids, 40, repair, is_copy=True)
        go_on(model, cache, follower, ids, 40, "reset")


def test_a_cache_that_failed_equals_one_that_did_not(model):
    """Without the follower: nothing is coded, so the logits after a repair are those of the default cache."""
    ids = tiny_inputs(2, 60)
    stock, cache = DynamicCache(config=model.config), new_cache(model.config, exact=True)
    for each in (stock, cache):
        run(model, ids[:, :10], each)
    layer = model.get_decoder().layers[-1]
    hook = layer.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(MemoryError("as asked for")))
    with pytest.raises(MemoryError):
        run(model, ids[:, 10:13], cache)
    hook.remove()
    cache.crop(min(10 - int(cache.get_seq_length()), 0))
    want, got = (model(ids[:, 10:13], **cache_argument(each)).logits for each in (stock, cache))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
