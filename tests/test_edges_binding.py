# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A cache belongs to the model that runs, and a call leaves the model as it was: no fact in two places."""

import copy
import pickle

import numpy as np
import package_adapter as adapter
import pytest
import torch
from edge_cases import REFUSED, greedy, new_cache, right_or_refused, run, sliding_model, tiny_model
from method_attention import Tokens, attention
from tiny_models import tiny_inputs
from transformers import DynamicCache

from vecinfer_hf.integration.compat import cache_argument


pytestmark = pytest.mark.sampled(3)


def equal_config(model, cache):
    return model, new_cache(copy.deepcopy(model.config), exact=True)


def copied_model(model, cache):
    return copy.deepcopy(model), cache


def unpickled_cache(model, cache):
    return model, pickle.loads(pickle.dumps(cache))


def copied_cache(model, cache):
    return model, copy.deepcopy(cache)


def copied_both(model, cache):
    return copy.deepcopy((model, cache))


PAIRS = [equal_config, copied_model, unpickled_cache, copied_cache, copied_both]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_second_turn_attends_to_the_first(pair, family):
    """Nothing is coded, so a later call of several tokens gives the default cache's logits."""
    model = tiny_model(family)
    model, cache = pair(model, new_cache(model.config, exact=True))
    first, second = tiny_inputs(1, 60), tiny_inputs(1, 15, seed=1)

    def second_turn(cache):
        reply = greedy(model, first, cache)
        return run(model, torch.cat([reply[:, -1:], second], 1), cache)

    want = second_turn(DynamicCache(config=model.config))
    got = right_or_refused(lambda: second_turn(cache))
    if got is not REFUSED:
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_prompt_in_chunks_is_read_whole(pair):
    model = tiny_model("llama")
    model, cache = pair(model, new_cache(model.config, exact=True))
    ids = tiny_inputs(1, 60)
    want = greedy(model, ids)
    got = right_or_refused(lambda: greedy(model, ids, cache, prefill_chunk_size=16))
    if got is not REFUSED:
        assert torch.equal(got, want)


@pytest.mark.parametrize("pair", PAIRS[1:])
def test_a_filled_cache_goes_on_after_it_was_copied(pair):
    model = tiny_model("llama")
    cache = new_cache(model.config, exact=True)
    model.set_attn_implementation("vecinfer")
    ids = tiny_inputs(2, 60)
    want = run(model, ids, None)
    run(model, ids[:, :30], cache)
    model, cache = pair(model, cache)
    got = right_or_refused(lambda: run(model, ids[:, 30:], cache))
    if got is not REFUSED:
        torch.testing.assert_close(got, want[:, 30:], rtol=1e-3, atol=1e-3)


def test_a_cache_serves_one_model_after_another():
    """Two models of equal shape but their own config objects and their own attention."""
    first, second = tiny_model("llama"), tiny_model("llama", seed=1)
    ids = tiny_inputs(1, 40)
    cache = new_cache(first.config, exact=True)
    greedy(first, ids, cache)
    cache.reset()
    want = greedy(second, ids)
    got = right_or_refused(lambda: greedy(second, ids, cache))
    assert got is REFUSED or torch.equal(got, want)


@pytest.mark.parametrize("overrides", [{"num_hidden_layers": 3}, {"num_hidden_layers": 1}, {"num_key_value_heads": 4}])
def test_a_cache_of_another_shape_is_refused(overrides):
    model = tiny_model("llama")
    other = tiny_model("llama", **overrides)
    cache = new_cache(other.config)
    assert right_or_refused(lambda: greedy(model, tiny_inputs(1, 20), cache)) is REFUSED


@pytest.mark.parametrize("softcap", [None, 3.0], ids=["plain", "softcap"])
@pytest.mark.parametrize(("queries", "tokens"), [(1, 9), (4, 9), (20, 50), (9, 9)])
def test_plain_keys_without_a_mask_are_causal_from_the_end(queries, tokens, softcap):
    """Query i of Tq sees keys 0 .. T - Tq + i, also where there are more keys than queries."""
    module = tiny_model("llama").model.layers[0].self_attn
    query = torch.randn(2, 4, queries, 16)
    key, value = torch.randn(2, 2, 2, tokens, 16)
    output, _ = adapter.attention_function()(module, query, key, value, None, scaling=0.25, softcap=softcap)
    visible = np.arange(tokens) <= np.arange(tokens - queries, tokens)[:, None]
    query, key, value, output = (adapter.array(states) for states in (query, key, value, output))
    for row in range(2):
        for head in range(2):
            plain = Tokens(*[states[row, head] for states in (key, value, key, value)], np.zeros(tokens, bool))
            own = slice(2 * head, 2 * head + 2)
            want, bound = attention(query[row, own], plain, None, head, visible, 0.25, softcap or 0.0)
            assert (np.abs(output[row, :, own].transpose(1, 0, 2) - want) <= bound).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("room", [None, 100], ids=["growing", "static"])
def test_generate_with_a_cache_leaves_the_models_attention(attention, room):
    model = tiny_model("llama", attn_implementation=attention)
    ids = tiny_inputs(1, 40)
    with torch.no_grad():
        weights = model(ids, output_attentions=True).attentions
    greedy(model, ids, new_cache(model.config, room=room))
    assert model.config._attn_implementation == attention
    with torch.no_grad():
        again = model(ids, output_attentions=True).attentions
    assert len(again) == len(weights)


def test_generate_by_name_leaves_the_models_attention():
    model = tiny_model("llama", attn_implementation="eager")
    asked = {"cache_implementation": "vecinfer", "cache_config": {"codebook": "online"}}
    model.generate(tiny_inputs(1, 40), max_new_tokens=2, **asked)
    assert model.config._attn_implementation == "eager"


class Stop(BaseException):
    pass


@pytest.mark.parametrize("moment", ["first", "later"])
def test_a_generate_that_breaks_off_leaves_the_models_attention(moment):
    model = tiny_model("llama", attn_implementation="eager")
    calls = []

    def stop(module, arguments):
        calls.append(1)
        if len(calls) == (1 if moment == "first" else 4):
            raise Stop

    hook = model.model.layers[1].register_forward_pre_hook(stop)
    with pytest.raises(Stop):
        greedy(model, tiny_inputs(1, 40), new_cache(model.config))
    hook.remove()
    assert model.config._attn_implementation == "eager"


def test_a_generate_within_another_call_of_the_model_leaves_its_attention():
    """Two caches in turn, as two users of one model have them."""
    model = tiny_model("gemma2", attn_implementation="eager")
    for _ in range(2):
        greedy(model, tiny_inputs(1, 30), new_cache(model.config))
        assert model.config._attn_implementation == "eager"


def test_a_cache_made_with_the_text_model_of_a_larger_one():
    """The config of the whole model and that of its language model are two objects."""
    from transformers import AutoModelForImageTextToText, Gemma3Config

    text = tiny_model("gemma3").config.to_dict()
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=90)
    model = AutoModelForImageTextToText.from_config(config).eval()
    model.generation_config.eos_token_id = None
    ids = tiny_inputs(1, 60, vocab_size=80)
    want = greedy(model, ids)
    for source in (model.config, model.config.text_config):
        cache = new_cache(source, exact=True)
        half = right_or_refused(lambda cache=cache: run(model, ids[:, :40], cache))
        if half is REFUSED:
            # Without generate a model keeps its own attention.
            cache = new_cache(source, exact=True)
        assert torch.equal(greedy(model, ids, cache), want)


def test_sliding_layers_are_bound_too():
    model = sliding_model()
    other = copy.deepcopy(model.config)
    ids = tiny_inputs(1, 50)
    want = greedy(model, ids, DynamicCache(config=model.config), prefill_chunk_size=20)
    got = right_or_refused(lambda: greedy(model, ids, new_cache(other, exact=True), prefill_chunk_size=20))
    assert got is REFUSED or torch.equal(got, want)


def test_a_bare_call_with_a_cache_and_other_attention_says_so_or_is_right():
    """A forward pass, not generate: the model's attention is still its own."""
    model = tiny_model("llama", attn_implementation="eager")
    ids = tiny_inputs(2, 30)
    with torch.no_grad():
        want = model(ids).logits
    cache = new_cache(model.config, exact=True)
    first = right_or_refused(lambda: model(ids[:, :20], **cache_argument(cache)).logits)
    if first is not REFUSED:
        torch.testing.assert_close(run(model, ids[:, 20:], cache), want[:, 20:], rtol=1e-3, atol=1e-3)
