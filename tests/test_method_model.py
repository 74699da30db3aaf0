# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The float64 model of METHOD.md itself: small cases worked out by hand, and that it notices what is wrong."""

import math

import numpy as np
import package_adapter as adapter
import pytest
import torch
from edge_cases import new_cache, run, tiny_model
from method_attention import Tokens, attention
from method_codes import LayerCodes, Side, hadamard
from method_follower import Divergence
from method_hooks import following
from method_model import Call, LayerModel, SlidingModel
from method_row import Resolver, Row, Settings
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs


UNKNOWN = Resolver(lambda: None, lambda: None)


def plain_side(centroids, heads=1, dim=2):
    """A side without transform whose centroids are those of every head, `[C, d]`."""
    table = np.broadcast_to(np.asarray(centroids, float), (heads, 1, *np.shape(centroids)))
    return Side.build(np.zeros((heads, dim)), None, None, table, np.ones(heads))


def settings(sinks, window, choice="first"):
    codes = plain_side([[0, 0], [4, 0], [0, 4], [4, 4]])
    return Settings(sinks, window, choice, LayerCodes(codes, codes))


def states(*tokens):
    """Keys or values `[1, T, 2]` of one head."""
    return np.asarray([tokens], float)


def call(keys, values, query=None, valid=None):
    keys, values = keys[None], values[None]
    valid = np.ones(keys.shape[:1] + keys.shape[2:3], bool) if valid is None else np.asarray([valid], bool)
    return Call(keys if query is None else query, keys, values, valid, 1.0)


@pytest.mark.parametrize("dim", [2, 4, 12, 16, 80])
def test_hadamard_is_its_own_inverse_and_block_diagonal(dim):
    matrix = hadamard(dim)
    np.testing.assert_allclose(matrix @ matrix, np.eye(dim), atol=1e-12)
    block = dim & -dim
    assert np.count_nonzero(matrix) == dim * block


@pytest.mark.parametrize("kind", ["smooth_scale", "matrix"])
def test_the_transforms_cancel_in_the_product(kind):
    codebook = random_codebook(tiny_model("llama").config, kind=kind, mean=True)
    side = adapter.layer_codes(codebook, 0).key
    query, key = np.random.default_rng(0).normal(size=(2, 5, 16))
    for head in range(2):
        transformed, _ = side.transformed(key, head)
        dual = query @ side.inverse[head].T
        np.testing.assert_allclose(
            dual @ transformed.T + (query @ side.mean[head])[:, None], query @ key.T, rtol=1e-9, atol=1e-9
        )


def test_the_nearest_centroid_and_those_that_rounding_allows():
    side = plain_side([[0, 0], [4, 0], [0, 4], [4, 4]])
    choice = side.encode(np.array([[1.0, 0.5], [3.0, 3.0], [2.0, 0.0], [2.0 + 1e-9, 0.0], [2.1, 0.0]]), 0)
    assert choice.vectors.tolist() == [[0, 0], [4, 4], [0, 0], [4, 0], [4, 0]]
    assert sorted(choice.doubtful) == [(2, 0), (3, 0)]
    assert sorted(choice.doubtful[2, 0].tolist()) == [[0, 0], [4, 0]]
    settled = side.settle(choice, np.array([[0, 0], [4, 4], [4, 0], [0, 0], [4, 0]], float), 0)
    assert settled.tolist() == [[0, 0], [4, 4], [4, 0], [0, 0], [4, 0]]


def test_the_second_code_is_the_nearest_to_what_the_first_left_over():
    table = np.array([[[[0, 0], [8, 0]], [[0, 0], [1, 1]]]], float)
    side = Side.build(np.zeros((1, 2)), None, None, table, np.ones(1))
    assert side.encode(np.array([[8.8, 0.9], [0.9, 0.9], [4.5, 0.1]]), 0).vectors.tolist() == [[9, 1], [1, 1], [8, 0]]


def test_attention_over_two_tokens_by_hand():
    keys, values = np.eye(2), 10 * np.eye(2)
    tokens, query = Tokens(keys, values, keys, values, np.zeros(2, bool)), np.array([[[math.log(3), 0.0]]])
    output, _ = attention(query, tokens, None, 0, np.ones((1, 2), bool), 1.0)
    np.testing.assert_allclose(output[0, 0], [7.5, 2.5])
    output, _ = attention(query, tokens, None, 0, np.ones((1, 2), bool), 1.0, sink_logits=np.array([math.log(4)]))
    np.testing.assert_allclose(output[0, 0], [3.75, 1.25])
    output, _ = attention(query, tokens, None, 0, np.zeros((1, 2), bool), 1.0)
    assert output.tolist() == [[[0, 0]]]


def test_sinks_window_and_codes_of_one_row():
    """Two sinks, a window of two: of six tokens the third and fourth are codes, once and for all."""
    keys = states([1, 0], [3, 3], [3, 1], [0, 3], [1, 1], [2, 2])
    layer = LayerModel.empty(settings(2, 2)).attend(call(keys, keys), lambda row: UNKNOWN).after
    row = layer.rows[0]
    assert row.sink[0].tolist() == [True, True] + [False] * 4
    assert row.coded[0].tolist() == [False, False, True, True, False, False]
    assert row.code_keys[0, 2:4].tolist() == [[4, 0], [0, 4]]
    after = layer.attend(call(states([9, 9]), states([9, 9])), lambda row: UNKNOWN).after.rows[0]
    assert after.coded[0].tolist() == [False, False, True, True, True, False, False]
    assert after.code_keys[0, 2:4].tolist() == [[4, 0], [0, 4]]
    cropped = layer.cropped(4, lambda row: UNKNOWN).rows[0]
    assert cropped.coded[0].tolist() == [False, False, True, True]
    assert layer.cropped(0, lambda row: UNKNOWN).rows == ()


def test_sinks_are_the_smallest_values_of_the_first_call():
    keys = states(*[[float(i), 0] for i in range(6)])
    values = states([5, 0], [1, 0], [4, 0], [2, 0], [3, 0], [0.5, 0])
    layer = LayerModel.empty(settings(2, 1, "small_values")).attend(call(keys, values), lambda row: UNKNOWN).after
    assert layer.rows[0].sink[0].tolist() == [False, True, False, False, False, True]
    # All but the last of the others leave the window. A crop takes a sink: the place goes to an exact token, or, where
    # there is none, to the last coded one.
    assert layer.rows[0].coded[0].tolist() == [True, False, True, True, False, False]
    cropped = layer.cropped(5, lambda row: UNKNOWN).rows[0]
    assert cropped.sink[0].tolist() == [False, True, False, False, True]
    assert cropped.coded[0].tolist() == [True, False, True, True, False]
    cropped = layer.cropped(4, lambda row: UNKNOWN).rows[0]
    assert cropped.sink[0].tolist() == [False, True, False, True]
    wide = LayerModel.empty(settings(2, 4, "small_values")).attend(call(keys, values), lambda row: UNKNOWN).after
    assert wide.cropped(5, lambda row: UNKNOWN).rows[0].sink[0].tolist() == [False, True, False, True, False]
    later = layer.attend(call(states([9, 9]), states([0, 0])), lambda row: UNKNOWN).after
    assert later.rows[0].sink[0, -1] == False  # noqa: E712


def test_early_tokens_complete_the_sinks_of_a_short_first_call():
    layer = LayerModel.empty(settings(3, 1, "small_values"))
    for value in (5.0, 1.0, 4.0, 0.1):
        layer = layer.attend(call(states([value, 0]), states([value, 0])), lambda row: UNKNOWN).after
    assert layer.rows[0].sink[0].tolist() == [True, True, True, False]


def test_padding_is_never_stored():
    keys = states([1, 0], [2, 0], [3, 0], [4, 0])
    layer = LayerModel.empty(settings(1, 8))
    after = layer.attend(call(keys, keys, valid=[False, True, False, True]), lambda row: UNKNOWN).after
    assert after.rows[0].keys[0, :, 0].tolist() == [2, 4]
    assert after.columns.tolist() == [[False, True, False, True]]


def test_a_sliding_layer_sees_its_window_of_columns():
    model = SlidingModel.empty(2)
    keys = states([0, 0], [0, 0], [0, 0])
    values = states([1, 0], [2, 0], [4, 0])
    expected = model.attend(call(keys, values))
    assert expected.output[0, 0, :, 0].tolist() == [1, 1.5, 3]
    assert expected.after.cropped(1).attend(call(states([0, 0]), states([9, 0]))).output[0, 0, 0, 0] == 5


def test_an_empty_row_has_nothing_to_read():
    keys, values, _, _ = Row.empty(1, 2).read(settings(1, 1))
    assert keys.shape == values.shape == (1, 0, 2)


def tampered(change, bits=2, choice="small_values"):
    """Fill a cache under the follower, change what it holds, and go on."""
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    ids = tiny_inputs(2, 80)
    with following(model) as follower:
        codebook = random_codebook(model.config, bits, bits, kind="matrix", mean=True, value_kind="matrix")
        cache = new_cache(model.config, codebook=codebook, sink_choice=choice)
        run(model, ids[:, :60], cache)
        run(model, ids[:, 60:61], cache)
        change(cache.layers[1])
        run(model, ids[:, 61:62], cache)
        assert follower.compared == 6


def flip_code(layer):
    layer.buffers.codes[1, 0, 0, 5] ^= 1


def swap_sinks(layer):
    layer.buffers.sink_values[0, 1, [0, 1]] = layer.buffers.sink_values[0, 1, [1, 0]]


def lose_sink(layer):
    layer.buffers.sink_keys[0, 0, 0] = 0


def shift_window(layer):
    window = adapter.ring_keys(layer)
    window.copy_(window.roll(1, 2))


def forget_a_token(layer):
    layer.buffers.lengths.sub_(1)


CHANGES = [flip_code, swap_sinks, lose_sink, shift_window, forget_a_token]


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("change", CHANGES)
def test_the_follower_notices_what_is_wrong(change, bits):
    """One bit of one code, two values that changed places, one token: rounding explains none."""
    with pytest.raises((Divergence, AssertionError)):
        tampered(change, bits)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_follower_accepts_what_is_right(bits):
    tampered(lambda layer: None, bits)


def test_the_follower_notices_another_window():
    """A cache of seven tokens followed as one of eight."""
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    ids = tiny_inputs(1, 60)
    with following(model) as follower:
        cache = new_cache(model.config, residual_length=7)
        for states_of_layer in follower.of(cache).layers.values():
            states_of_layer[0] = LayerModel.empty(states_of_layer[0].settings._replace(residual_length=8))
        run(model, ids[:, :40], cache)
        with pytest.raises(Divergence):
            run(model, ids[:, 40:41], cache)
    with torch.no_grad():
        assert model(ids).logits.isfinite().all()
