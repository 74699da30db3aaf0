# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Layers that read the keys and values of another layer (Gemma 3n, Gemma 4 E2B and E4B)."""

import pytest
import torch
from edge_cases import new_cache, run
from family_operations import CODED, EXACT, Run
from method_hooks import following
from model_families import family_model
from tiny_models import tiny_inputs

from vecinfer_hf import CacheStateError
from vecinfer_hf.integration.compat import cache_argument


def model_with_vecinfer(family):
    model = family_model(family)
    model.set_attn_implementation("vecinfer")
    return model


@pytest.mark.parametrize("family", ["gemma3n", "gemma4_e4b"])
@pytest.mark.parametrize("calls", [[40, 1, 1], [20, 20, 5], [30, 1, 30, 1]], ids=str)
def test_every_reader_is_answered_from_the_same_state(family, calls):
    """The layer itself and the one that shares it, by the independent model: prompts, single tokens, many tokens."""
    model = model_with_vecinfer(family)
    ids = tiny_inputs(1, sum(calls))
    with following(model) as follower:
        cache = new_cache(model.config)
        for part in ids.split(calls, dim=1):
            run(model, part, cache)
        follower.audit(cache)
        # Four layers attend in each call, two of them over keys and values of another one.
        assert follower.compared == 4 * len(calls)
    assert max(cache.layers[1].storage.quantized) == sum(calls) - 4 - 8


@pytest.mark.parametrize("kind", [EXACT, CODED])
def test_a_model_may_ask_for_the_last_tokens_only(kind):
    """Gemma 4 computes its sharing layers for the tokens alone whose logits it is asked for."""
    model = model_with_vecinfer("gemma4_e4b")
    ids = tiny_inputs(1, 60)
    results = []
    for keep in (0, 2):
        cache = Run("gemma4_e4b", model, kind).cache()
        with torch.no_grad():
            parts = [
                model(part, logits_to_keep=keep, **cache_argument(cache)).logits[:, -2:] for part in ids.split(20, 1)
            ]
        results.append(torch.cat(parts, 1))
    assert torch.allclose(*results, atol=1e-4)


def test_a_pass_that_ends_before_the_last_reader_is_noticed():
    model = model_with_vecinfer("gemma3n")
    cache, ids = new_cache(model.config), tiny_inputs(1, 60)
    run(model, ids[:, :20], cache)

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    model.model.layers[2].mlp.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        run(model, ids[:, 20:], cache)
    model.model.layers[2].mlp._forward_pre_hooks.clear()
    with pytest.raises(CacheStateError, match="crop|reset"):
        run(model, ids[:, 20:], cache)
    cache.reset()
    assert torch.equal(run(model, ids, cache), run(model, ids, new_cache(model.config)))
