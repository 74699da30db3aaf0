# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C at any line of the package, or between two tokens: the cache goes on, or says how to repair it."""

import pytest
import torch
from disturbed_sequences import InterruptAtLine, Interruption
from edge_cases import greedy, new_cache, run
from failing_calls import KINDS, MODELS, go_on, make_model
from method_follower import Divergence
from method_hooks import following
from refusal import assert_says_how_to_repair
from tiny_models import tiny_inputs
from transformers import StoppingCriteria

from vecinfer_hf import CacheStateError
from vecinfer_hf.cache.forward_pass import ForwardPass


@pytest.fixture(params=MODELS)
def model(request):
    return make_model(request.param)


@pytest.fixture(params=KINDS)
def cache(request, model):
    return new_cache(model.config, room=100 if request.param == "static" else None)


def interrupted(model, room, count, first, step, repairs=("retry", "crop", "reset")):
    """Interrupt a call at every `step`-th line of the package from the `first` on; return how many there were."""
    ids = tiny_inputs(2, 60)
    line, done = first, 0
    while True:
        with following(model) as follower:
            cache = new_cache(model.config, room=room, residual_length=4)
            run(model, ids[:, :20], cache)
            try:
                with InterruptAtLine(line) as interrupt:
                    run(model, ids[:, 20 : 20 + count], cache)
            except Interruption:
                pass
            else:
                return done
            if follower.of(cache).columns == 20:
                try:
                    go_on_after_interruption(model, cache, follower, ids, repairs[done % len(repairs)])
                except Exception as error:
                    raise AssertionError(f"interrupted at {interrupt.place}") from error
        line, done = line + step, done + 1


def go_on_after_interruption(model, cache, follower, ids, repair):
    try:
        go_on(model, cache, follower, ids, 20, repair)
    except Divergence:
        raise
    except Exception as error:
        # Within a store a crop need not know what is where, if it says so.
        assert_says_how_to_repair(error, "reset")
        go_on(model, cache, follower, ids, 20, "reset")


@pytest.mark.parametrize("count", [1, 20], ids=["token", "turn"])
@pytest.mark.parametrize("room", [None, 60], ids=KINDS)
def test_an_interruption_at_any_line(model, room, count):
    """Ctrl-C may come anywhere. Every 67th line by default, every line among the slow tests."""
    assert interrupted(model, room, count, 1 + 7 * count, 67) > 2


@pytest.mark.slow
@pytest.mark.parametrize("repair", ["retry", "crop"])
@pytest.mark.parametrize("count", [1, 20], ids=["token", "turn"])
@pytest.mark.parametrize("room", [None, 60], ids=KINDS)
def test_an_interruption_at_every_line(model, room, count, repair):
    assert interrupted(model, room, count, 1, 1, (repair,)) > 50


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("before_it_is_noted", [True, False])
@pytest.mark.parametrize("room", [None, 60], ids=KINDS)
def test_an_interruption_behind_a_store_is_noticed(layer, before_it_is_noted, room, monkeypatch):
    """A layer has stored everything, but the pass does not know it, or the layer is still marked as torn."""
    model, ids = make_model("full"), tiny_inputs(2, 60)
    cache = new_cache(model.config, room=room, residual_length=4)
    stored = ForwardPass.stored

    def interrupted_once(forward_pass, index):
        if index != layer:
            return stored(forward_pass, index)
        if not before_it_is_noted:
            stored(forward_pass, index)
        raise KeyboardInterrupt

    def interrupt_and_repair():
        run(model, ids[:, :20], cache)
        with monkeypatch.context() as patch:
            patch.setattr(ForwardPass, "stored", interrupted_once)
            with pytest.raises(KeyboardInterrupt):
                run(model, ids[:, 20:21], cache)
        with pytest.raises(CacheStateError, match="ended midway"):
            run(model, ids[:, 20:23], cache)
        cache.crop(0)
        assert {int(each.get_seq_length()) for each in cache.layers} == {20}

    if layer == 0:
        with following(model) as follower:
            interrupt_and_repair()
            run(model, ids[:, 20:23], cache)
            follower.audit(cache)
        return
    # Every layer has stored the token, so the cache is that of a call which was taken back.
    interrupt_and_repair()
    taken_back = new_cache(model.config, room=room, residual_length=4)
    run(model, ids[:, :20], taken_back)
    run(model, ids[:, 20:21], taken_back)
    taken_back.crop(-1)
    assert torch.equal(run(model, ids[:, 20:23], cache), run(model, ids[:, 20:23], taken_back))


class StopHere(StoppingCriteria):
    """Ctrl-C between two tokens."""

    def __call__(self, input_ids, scores, **kwargs):
        if input_ids.shape[1] >= 44:
            raise KeyboardInterrupt
        return torch.zeros(len(input_ids), dtype=torch.bool)


def test_an_interruption_between_two_tokens_of_generate(model, cache):
    """No layer is in the middle of anything: the cache holds what was fed and goes on."""
    ids = tiny_inputs(1, 60)
    with following(model) as follower:
        with pytest.raises(KeyboardInterrupt):
            greedy(model, ids[:, :40], cache, new=20, stopping_criteria=[StopHere()])
        held = int(cache.get_seq_length())
        assert held == 43
        run(model, ids[:, held : held + 5], cache)
        follower.audit(cache)
