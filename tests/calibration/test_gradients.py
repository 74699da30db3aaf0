# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration by loss: the gradients are those of the loss, the transform makes squared error loss, bits follow."""

import pytest
import torch
from tiny_models import FAMILIES, tiny_inputs, tiny_model

from vecinfer_hf.calibration import measure_sensitivity, predicted_sensitivity, simulated_loss
from vecinfer_hf.calibration.attention import attention_function, run_body
from vecinfer_hf.calibration.fit import fit_layers
from vecinfer_hf.calibration.gradients import record_gradients
from vecinfer_hf.calibration.loss_transform import dealt_positions, loss_transform, token_weights
from vecinfer_hf.calibration.recorder import record_states, sample_tokens
from vecinfer_hf.calibration.refine import model_logits
from vecinfer_hf.calibration.simulate import LayerSimulator, doubled_attention, simulated_attention
from vecinfer_hf.model_info import full_attention_layers
from vecinfer_hf.quantization.formats import parse_format


OPTIONS = {"sink_length": 2, "residual_length": 8}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_gradients_and_comes_back(family):
    model = tiny_model(family)
    attention = model.config._attn_implementation
    layers = full_attention_layers(model.config)
    states = record_gradients(model, tiny_inputs(2, 90), layers, **OPTIONS)
    assert list(states) == layers
    for own in states.values():
        heads, dim = own.keys.shape[0], own.keys.shape[2]
        assert own.keys.shape == own.key_gradients.shape == own.value_gradients.shape == (heads, 2 * 80, dim)
        # Directions are counted alike, so the trace is the share of tokens that have any gradient: all but none.
        assert torch.all(own.key_fisher.diagonal(dim1=-2, dim2=-1).sum(-1) <= 1 + 1e-4)
        assert own.value_gradients.abs().amax() > 0
    assert model.config._attn_implementation == attention
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_gradients_predict_the_change_of_the_loss():
    """The recorded gradient is the slope of -log p(labels) along any change of one coded value."""
    model = tiny_model().double()
    ids, step = tiny_inputs(1, 40), 1e-4
    states = record_gradients(model, ids, [0, 1], seed=3, **OPTIONS)[0]
    hidden = run_body(model, ids).detach()
    # The labels that record_gradients drew: the same generator after the same draws.
    generator = torch.Generator().manual_seed(3)
    sample_tokens(1, 30, 16384, generator)
    torch.randint(1, (1,), generator=generator)
    scores = model_logits(model, hidden[:, 10:]).log_softmax(-1)
    cumulative = scores.exp().cumsum(-1)
    draws = torch.rand(scores.shape[:-1], generator=generator)
    labels = torch.searchsorted(cumulative, draws.unsqueeze(-1) * cumulative[..., -1:])

    def loss(shift: float) -> float:
        def coded(module, query, key, value):
            if module.layer_idx != 0:
                return None
            moved = value.clone()
            moved[0, 1, 2 + 5, 3] += shift
            return key, moved

        with torch.no_grad(), attention_function(model, doubled_attention(coded, 2, 8)):
            out = model_logits(model, run_body(model, ids)[:, 10:]).log_softmax(-1)
        return -out.gather(-1, labels).sum().item()

    slope = (loss(step) - loss(-step)) / (2 * step)
    # `model_logits` is float32: its rounding of sums near 100, divided by the step.
    assert states.value_gradients[1, 5, 3].item() == pytest.approx(slope, rel=1e-2, abs=100 * 2**-24 / step)


def test_short_windows_are_refused():
    with pytest.raises(ValueError, match="11 tokens have no coded ones"):
        record_gradients(tiny_model(), tiny_inputs(1, 11), [0], **OPTIONS)


def test_samples_are_drawn_per_window_without_repetition():
    parts = sample_tokens(3, 10, 12, torch.Generator().manual_seed(0))
    assert len(parts) == 3
    assert sum(map(len, parts)) == 12
    for part in parts:
        assert torch.equal(part, part.unique())
        assert len(part) == 0 or (part.min() >= 0 and part.max() < 10)


@pytest.mark.parametrize(("dim", "subvector_dim"), [(64, 8), (64, 4), (16, 2), (24, 8), (8, 8)])
def test_axes_are_dealt_out_evenly(dim, subvector_dim):
    positions = dealt_positions(dim, subvector_dim)
    assert torch.equal(positions.sort().values, torch.arange(dim))
    groups = dim // subvector_dim
    # Each round gives every sub-vector one axis; the sums of the ranks differ by less than one round.
    ranks = torch.zeros(groups).index_add_(0, positions // subvector_dim, torch.arange(dim).float())
    assert ranks.max() - ranks.min() < groups


@pytest.mark.parametrize("centred", [False, True])
def test_squared_error_in_the_transformed_space_is_the_importance(centred):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 4000, 16, generator=generator) @ torch.randn(2, 16, 16, generator=generator) + 1
    root = torch.randn(2, 16, 16, generator=generator)
    importance = root @ root.transpose(1, 2)
    mean, transform, inverse = loss_transform(states, importance, 4, centred)
    assert (mean is not None) == centred
    torch.testing.assert_close(transform @ inverse, torch.eye(16).expand(2, 16, 16), rtol=0, atol=1e-4)
    level = importance.diagonal(dim1=-2, dim2=-1).mean(-1).view(-1, 1, 1)
    mixed = 0.9 * importance / level + 0.1 * torch.eye(16)
    # The matrix is rounded to 11 bits, which moves a product of two of its rows by 2^-10 of their lengths at most.
    tolerance = 2**-10 * mixed.diagonal(dim1=-2, dim2=-1).max().item()
    torch.testing.assert_close(transform @ transform.transpose(1, 2), mixed, rtol=0, atol=tolerance)
    vectors = (states - (mean.unsqueeze(1) if centred else 0)) @ transform
    covariance = vectors.transpose(1, 2) @ vectors / 4000
    apart = covariance - torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    assert apart.abs().max() < 1e-3 * covariance.abs().max()


def test_weights_follow_the_cost_within_bounds():
    gradients = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 0.0], [1000.0, 0.0]]])
    weights = token_weights(gradients, torch.eye(2).unsqueeze(0))
    assert weights.shape == (1, 4)
    assert weights[0, 3] > weights[0, 1]
    assert weights.min() > 0
    assert torch.equal(token_weights(torch.zeros(1, 3, 2), torch.eye(2).unsqueeze(0)), torch.ones(1, 3))


def test_weights_in_front_of_a_diagonal_transform_and_of_none():
    gradients = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    # An error of one unit in the transformed space is an error of `inverse` units of the channel.
    diagonal = token_weights(gradients, torch.tensor([[4.0, 1.0]]))
    assert diagonal[0, 0] / diagonal[0, 1] == pytest.approx(4.0)
    matrix = token_weights(gradients, torch.diag(torch.tensor([4.0, 1.0])).unsqueeze(0))
    torch.testing.assert_close(diagonal, matrix)
    assert torch.equal(token_weights(gradients, None), torch.ones(1, 2))


def test_weights_without_gradients_are_refused():
    states = record_states(tiny_model(), tiny_inputs(2, 60), [0], sink_length=2)
    with pytest.raises(ValueError, match="Weights of tokens come from gradients"):
        fit_layers(states, {0: (parse_format(1), parse_format(1))}, recipe="paper", weighted=True)


def test_the_default_recipe_loses_less_than_the_papers_and_is_predicted():
    model = tiny_model()
    text, held_out = tiny_inputs(24, 100, seed=1), tiny_inputs(12, 100, seed=2)
    states = record_gradients(model, text, [0, 1], **OPTIONS)
    formats = dict.fromkeys((0, 1), (parse_format(2), parse_format(2)))
    losses = {}
    for recipe in ("default", "paper"):
        layers = fit_layers(states, formats, recipe=recipe, num_iterations=10)
        rows = measure_sensitivity(model, {2: layers}, held_out, batch_size=12, **OPTIONS)
        losses[recipe] = sum(row["kl"] for row in rows)
        if recipe == "default":
            predicted = predicted_sensitivity(states, {2: layers})
            assert [(row["layer"], row["side"], row["bits"]) for row in predicted] == [
                (row["layer"], row["side"], row["bits"]) for row in rows
            ]
            # Second order and independent errors: right to a factor of two on a random model.
            assert 0.5 < sum(row["kl"] for row in predicted) / losses[recipe] < 2
    assert losses["default"] < losses["paper"]


def test_a_prompt_is_read_exactly():
    model = tiny_model()
    states = record_gradients(model, tiny_inputs(4, 60), [0, 1], **OPTIONS)
    layers = fit_layers(states, dict.fromkeys((0, 1), (parse_format(1), parse_format(1))), num_iterations=2)
    simulators = {index: LayerSimulator(layer) for index, layer in layers.items()}
    ids = tiny_inputs(1, 50)
    exact = run_body(model, ids)
    with torch.no_grad(), attention_function(model, simulated_attention(simulators, 2, 8, 1, 30)):
        mixed = run_body(model, ids)
    torch.testing.assert_close(mixed[:, :30], exact[:, :30], rtol=1e-4, atol=1e-4)
    assert (mixed[:, 30:] - exact[:, 30:]).abs().amax() > 1e-2
    assert simulated_loss(model, simulators, ids, **OPTIONS).kl > 0
