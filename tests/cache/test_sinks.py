# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""sinks.py and the caches that store by it: which early tokens stay exact, and that their order changes nothing."""

import pytest
import torch
from filling import put
from tiny_codebooks import random_codebook
from tiny_models import tiny_config, tiny_inputs, tiny_model

from vecinfer_hf import VecInferCache
from vecinfer_hf.cache.forward_pass import ForwardPass
from vecinfer_hf.cache.layer import VecInferLayer
from vecinfer_hf.cache.sinks import CANDIDATES, FIRST, SMALL_VALUES, choose_sinks, sinks_to_front
from vecinfer_hf.cache.static_layer import VecInferStaticLayer
from vecinfer_hf.calibration import quantization_loss
from vecinfer_hf.calibration.fake_quantization import LayerFakeQuantizer
from vecinfer_hf.evaluation import evaluate_perplexity
from vecinfer_hf.integration.compat import cache_argument


HEADS, DIM, SINKS, WINDOW = 2, 16, 4, 8


def states(batch, tokens, small=(), seed=0):
    """Random keys and values, the values at `small` places made small."""
    keys, values = torch.randn(2, batch, HEADS, tokens, DIM, generator=torch.Generator().manual_seed(seed))
    values[:, :, list(small)] *= 0.01
    return keys, values


def make_layer(choice=SMALL_VALUES, static=None, residual=WINDOW):
    codebook = random_codebook(tiny_config("llama"))
    arguments = (0, codebook, 2 * HEADS, residual, SINKS, choice, "reference", ForwardPass())
    return VecInferLayer(*arguments) if static is None else VecInferStaticLayer(*arguments, max_cache_len=static)


def exact_places(layer, keys, columns):
    """Which columns a layer gives back bit by bit, `[B, Hkv, columns]`."""
    return (layer.read(columns)[0] == keys[:, :, :columns]).all(-1)


def test_each_head_chooses_its_smallest_values():
    values = torch.ones(1, 2, 100, 3)
    values[0, 0, [5, 9, 60]] = 0.1
    values[0, 1, [0, 1, 67]] = 0.2
    values[0, 1, 68] = 0.0  # behind the candidates
    chosen = choose_sinks(values, 4)
    assert chosen.shape == (1, 2, 4 + CANDIDATES)
    # The fourth is a tie, which the earliest token wins.
    assert chosen[0, 0].nonzero().flatten().tolist() == [0, 5, 9, 60]
    assert chosen[0, 1].nonzero().flatten().tolist() == [0, 1, 2, 67]
    assert choose_sinks(values, 4, FIRST)[0, 1].nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert sinks_to_front(chosen)[0, 0].tolist() == [0, 5, 9, 60, *(i for i in range(1, 68) if i not in (5, 9, 60))]


@pytest.mark.parametrize("tokens", [1, 3, 4, 5])
def test_texts_hardly_longer_than_the_sinks(tokens):
    assert choose_sinks(torch.randn(2, 3, tokens, 8), 4).sum(-1).eq(min(tokens, 4)).all()


def test_rows_that_end_early_choose_among_their_own_tokens():
    values = torch.ones(2, 1, 30, 3)
    values[1, 0, 20:] = 0
    chosen = choose_sinks(values, 4, counts=torch.tensor([30, 20]))
    assert chosen[1, 0].nonzero().flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("static", [None, 300])
@pytest.mark.parametrize("tokens", [69, 90, 200])
def test_the_chosen_tokens_stay_exact_and_everything_is_read_in_order(tokens, static):
    layer, small = make_layer(static=static), [2, 17, 40, 67]
    keys, values = states(2, tokens, small)
    put(layer, keys, values)
    exact = exact_places(layer, keys, tokens)
    expected = torch.zeros(tokens, dtype=torch.bool)
    expected[small] = True
    expected[-WINDOW:] = True
    # A sink near the end leaves its place in the window to an older token.
    expected[tokens - WINDOW - sum(place >= tokens - WINDOW for place in small) :] = True
    assert torch.equal(exact, expected.expand_as(exact))
    # Codes are a rounding of the token at the same column, not of another one: the nearest of all keys is its own.
    read = layer.read(tokens)[0]
    coded = (~expected).nonzero().flatten()
    first = make_layer(FIRST, static)
    put(first, keys, values)
    assert torch.equal(read[:, :, coded[coded > 67]], first.read(tokens)[0][:, :, coded[coded > 67]])
    both = coded[(coded >= 4) & (coded < 60)]
    torch.testing.assert_close(read[:, :, both], first.read(tokens)[0][:, :, both], rtol=0, atol=1e-6)


def test_a_left_padded_row_is_stored_as_it_is_alone():
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    codebook, ids = random_codebook(model.config), tiny_inputs(2, 120)
    mask = torch.ones_like(ids)
    mask[1, :30] = 0

    def run(rows, attention_mask):
        cache = VecInferCache(model.config, codebook, residual_length=WINDOW)
        positions = (attention_mask.cumsum(1) - 1).clamp_min(0)
        with torch.no_grad():
            model(rows, attention_mask=attention_mask, position_ids=positions, **cache_argument(cache))
        return cache.layers[1]

    together, alone = run(ids, mask), run(ids[1:, 30:], mask[1:, 30:])
    assert torch.equal(together.sinks.order[1:], alone.sinks.order)
    for name in ("sink_keys", "sink_values"):
        torch.testing.assert_close(getattr(together.buffers, name)[1:], getattr(alone.buffers, name))
    tokens = alone.read_lengths().tokens[0]
    torch.testing.assert_close(together.read(120)[0][1:, :, 30:], alone.read(tokens)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pieces", [[16, 10, 14], [16, 12, 12], [16, 24]], ids=str)
@pytest.mark.parametrize("static", [False, True])
def test_a_first_call_of_padding_alone(pieces, static):
    """What follows attends to what is stored, so nothing may be stored in another order than it is attended in."""
    model = tiny_model("llama")
    ids, total = tiny_inputs(2, sum(pieces)), sum(pieces)
    mask = torch.ones_like(ids)
    mask[:, :16] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        wanted = model(ids, attention_mask=mask, position_ids=positions).logits
    model.set_attn_implementation("vecinfer")
    options = {"static": True, "max_cache_len": total} if static else {}
    cache = VecInferCache(model.config, random_codebook(model.config), residual_length=128, **options)
    logits, at = [], 0
    with torch.no_grad():
        for tokens in pieces:
            part = slice(at, at + tokens)
            at += tokens
            output = model(
                ids[:, part], attention_mask=mask[:, :at], position_ids=positions[:, part], **cache_argument(cache)
            )
            logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, 1)[:, 16:], wanted[:, 16:], rtol=1e-3, atol=1e-3)


def ragged_layer(counts, tokens, small, static=None, residual=WINDOW):
    """A layer of left-padded rows that have `counts` real tokens, with small values in the columns `small`."""
    layer = make_layer(static=static, residual=residual)
    keys, values = states(len(counts), tokens, small)
    real = torch.arange(tokens) >= tokens - torch.tensor(counts)[:, None]
    layer.forward_pass.padding.columns = real
    put(layer, keys, values, real)
    return layer, keys, values, real


@pytest.mark.parametrize("static", [None, 300])
def test_the_longest_row_may_go(static):
    layer, _, _, real = ragged_layer([120, 20], 120, [110], static)
    before = layer.read(120)
    rows = torch.tensor([1]) if static is None else torch.tensor([1, 1])
    layer.batch_select_indices(rows)
    layer.forward_pass.padding.columns = real[rows]
    assert torch.equal(layer.read(120)[0], before[0][rows])
    layer.crop(-3)
    assert layer.read_lengths().tokens == [17] * len(rows)


def test_a_crop_behind_a_rows_candidates_leaves_them_alone():
    layer, _, _, real = ragged_layer([30, 20], 30, [20, 21, 22, 23])
    more = states(2, 9, [1, 2, 3], seed=1)
    layer.forward_pass.padding.columns = torch.cat([real, torch.ones(2, 9, dtype=torch.bool)], dim=1)
    for token in range(9):
        put(layer, *(part[:, :, token : token + 1] for part in more))
    before, quantized = layer.read(38), list(layer.read_lengths().quantized)
    layer.crop(-1)
    assert layer.read_lengths().quantized == quantized
    for old, new in zip(before, layer.read(38), strict=True):
        assert torch.equal(old, new)


def test_sinks_stay_sinks_in_a_crop_among_the_candidates():
    for seed in range(5):
        layer = make_layer()
        keys, values = states(1, 150, seed=seed)
        put(layer, keys, values)
        sinks = layer.sinks.order[0, :, :SINKS]
        layer.crop(60 - 150)
        exact = exact_places(layer, keys, 60)[0]
        for head in range(HEADS):
            left = [place for place in sinks[head].tolist() if place < 60]
            assert exact[head, left].all()


def test_rows_shorter_than_the_candidates():
    layer = make_layer()
    keys, values = states(2, 80, [60, 61, 62, 63])
    real = torch.ones(2, 80, dtype=torch.bool)
    real[1, :60] = False
    layer.forward_pass.padding.columns = real
    put(layer, keys, values, real)
    assert layer.read_lengths().tokens == [80, 20]
    read = layer.read(80)[0]
    assert torch.equal(read[:, :, 60:64], keys[:, :, 60:64])
    assert torch.equal(read[1, :, 72:], keys[1, :, 72:])
    assert not read[1, :, :60].any()


@pytest.mark.parametrize("static", [None, 300])
@pytest.mark.parametrize("left", [1, 3, 20, 41, 67])
def test_a_crop_among_the_candidates_keeps_what_is_known(left, static):
    layer = make_layer(static=static)
    keys, values = states(2, 150, [2, 17, 40, 67])
    put(layer, keys, values)
    before = layer.read(150)
    layer.crop(left - 150)
    assert int(layer.get_seq_length()) == left
    assert layer.read_lengths().tokens == [left, left]
    exact = exact_places(layer, keys, left)
    for place in (2, 17, 40):
        assert place >= left or exact[:, :, place].all()
    for old, new in zip(before, layer.read(left), strict=True):
        assert torch.equal(new, old[:, :, :left])
    more = states(2, 100, seed=1)
    put(layer, *more)
    assert int(layer.get_seq_length()) == left + 100
    assert torch.equal(layer.read(left + 100)[0][:, :, -WINDOW:], more[0][:, :, -WINDOW:])
    layer.crop(-left - 100)
    assert layer.read_lengths().tokens == [0, 0]


@pytest.mark.parametrize("static", [None, 300])
def test_rows_take_their_order_along(static):
    layer = make_layer(static=static)
    keys, values = states(2, 100)
    values[0, :, [3, 9, 33, 50]] *= 0.01
    values[1, :, [1, 2, 44, 66]] *= 0.01
    put(layer, keys, values)
    before = layer.read(100)
    layer.reorder_cache(torch.tensor([1, 0]))
    assert torch.equal(layer.read(100)[0], before[0].flip(0))
    if static is None:
        layer.batch_repeat_interleave(2)
        assert torch.equal(layer.read(100)[1], before[1].flip(0).repeat_interleave(2, dim=0))
        layer.batch_select_indices(torch.tensor([3]))
        assert torch.equal(layer.read(100)[0], before[0][:1])
    layer.reset()
    assert layer.sinks.order is None


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_generated_tokens_read_the_same_text(family):
    """Attention over the stored tokens does not depend on their order: with a long window it is the stock cache's."""
    model, ids = tiny_model(family), tiny_inputs(1, 100)
    options = {"max_new_tokens": 20, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    cache = VecInferCache(model.config, random_codebook(model.config), residual_length=512)
    stock = model.generate(ids, **options)
    model.set_attn_implementation("vecinfer")
    assert torch.equal(model.generate(ids, **options, **cache_argument(cache)), stock)


@pytest.mark.parametrize("choice", [FIRST, SMALL_VALUES])
def test_the_simulation_is_the_real_cache(choice):
    """The same text in one simulated pass and token by token through a cache."""
    model = tiny_model("llama")
    codebook = random_codebook(model.config)
    windows = tiny_inputs(1, 200)
    options = {"residual_length": SINKS + CANDIDATES, "sink_length": SINKS, "sink_choice": choice}
    real = evaluate_perplexity(model, windows, codebook, chunk_length=1, **options)
    layers = {index: LayerFakeQuantizer(layer).requires_grad_(False) for index, layer in codebook.layers.items()}
    simulated = quantization_loss(model, layers, windows, **options)
    other = quantization_loss(
        model, layers, windows,
        **{**options, "sink_choice": SMALL_VALUES if choice == FIRST else FIRST},
    )  # fmt: skip
    # A recent sink leaves its place in the window to an older token, in the real cache only.
    tolerance = 1e-3 if choice == FIRST else 0.05
    assert real.kl_divergence == pytest.approx(simulated.kl, rel=tolerance)
    assert abs(other.kl - simulated.kl) > 2 * tolerance * simulated.kl


def test_an_unknown_choice_is_refused():
    model = tiny_model("llama")
    with pytest.raises(ValueError, match=r"sink_choice is 'last'.*small_values.*first"):
        VecInferCache(model.config, random_codebook(model.config), sink_choice="last")
