# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""fit.py: the recipes, layers of different shapes, and errors that are measured."""

import pytest
import torch
from calibration_texts import IDS
from tiny_models import tiny_inputs, tiny_model

from vecinfer_hf.calibration.fake_quantization import fake_quantized_states
from vecinfer_hf.calibration.fit import RECIPES, _parts, fit_layers, layer_errors
from vecinfer_hf.calibration.gradients import GradientStates
from vecinfer_hf.calibration.recorder import LayerStates, record_states
from vecinfer_hf.errors import ConfigError
from vecinfer_hf.quantization.formats import parse_format


TWO_BITS = parse_format(2), parse_format(2)


def random_states(heads=2, key_dim=16, value_dim=16, tokens=600, seed=0):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(heads, tokens, key_dim, generator=generator)
    values = torch.randn(heads, tokens, value_dim, generator=generator)
    gradients = [torch.randn(states.shape, generator=generator) for states in (keys, values)]
    moments = [part.transpose(1, 2) @ part / tokens for part in (keys, *gradients)]
    return GradientStates(keys, values, keys.abs().amax(1), moments[0], *gradients, *moments[1:])


def test_the_paper_recipe_is_the_papers():
    states = record_states(tiny_model(), IDS[None, :300], [0])
    layer = fit_layers(states, {0: TWO_BITS}, recipe="paper", num_iterations=2)[0]
    torch.testing.assert_close(layer.query_transform, states[0].keys.abs().amax(1).sqrt())
    assert layer.key_mean is None
    assert layer.value_transform is None


def test_centring_helps_keys_with_a_large_offset():
    keys = torch.randn(2, 3000, 16)
    keys[:, :, 3] += 100
    states = LayerStates(keys, torch.randn(2, 3000, 16), keys.abs().amax(1), torch.eye(16).expand(2, 16, 16))
    layers = [fit_layers({0: states}, {0: TWO_BITS}, recipe=recipe, num_iterations=3)[0] for recipe in RECIPES[1:]]
    centred, uncentred = (
        (fake_quantized_states(keys[None], keys[None], layer)[0][0] - keys).square().mean() for layer in layers
    )
    assert centred < uncentred / 2


@pytest.mark.parametrize("recipe", RECIPES)
def test_channels_that_are_always_zero(recipe):
    states = random_states()
    states.keys[..., 5] = 0
    states.values.zero_()
    states.query_moment.zero_()
    states.key_gradients.zero_()
    states.key_fisher.zero_()
    states.value_fisher.zero_()
    layer = fit_layers({0: states}, {0: TWO_BITS}, recipe=recipe, num_iterations=2)[0]
    assert all(torch.isfinite(tensor).all() for tensor in layer if tensor is not None)
    assert layer_errors(states, layer)["value"] == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_layers_may_differ_in_heads_and_head_sizes(recipe):
    shapes = {0: (2, 16, 16), 1: (1, 16, 24), 3: (4, 8, 16), 4: (2, 16, 16)}
    states = {index: random_states(*shape, seed=index) for index, shape in shapes.items()}
    layers = fit_layers(states, dict.fromkeys(shapes, TWO_BITS), recipe=recipe, num_iterations=2)
    for index, (heads, key_dim, value_dim) in shapes.items():
        assert layers[index].key_transform.shape[:2] == (heads, key_dim)
        assert layers[index].value_centroids.shape == (heads, 1, 256, 4)
        restored = fake_quantized_states(states[index].keys[None], states[index].values[None], layers[index])
        assert [part.shape[-1] for part in restored] == [key_dim, value_dim]
        # A quarter of the energy is the double of the Gaussian limit at 2 bits.
        errors = layer_errors(states[index], layers[index])
        assert 0 < errors["key"] < 0.25
        assert 0 < errors["value"] < 0.25


def test_layers_are_clustered_in_parts_of_bounded_size():
    assert _parts([0, 1, 2, 3], [40, 40, 40, 40]) == [[0, 1], [2, 3]]
    assert _parts([0, 1, 2], [200, 8, 88]) == [[0], [1, 2]]
    assert _parts([5], [1]) == [[5]]


def test_weights_without_gradients_and_unknown_recipes_are_refused():
    states = record_states(tiny_model(), tiny_inputs(2, 60), [0], sink_length=2)
    with pytest.raises(ConfigError, match="Weights of tokens come from gradients"):
        fit_layers(states, {0: TWO_BITS}, recipe="paper", weighted=True)
    with pytest.raises(ConfigError, match="recipe is 'best'"):
        fit_layers(states, {0: TWO_BITS}, recipe="best")
