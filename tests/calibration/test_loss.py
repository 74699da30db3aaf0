# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""loss.py: the full-precision side is the model itself, and figures are means over the right tokens."""

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model

from vecinfer_hf.calibration import loss, quantization_loss
from vecinfer_hf.calibration.attention import run_body
from vecinfer_hf.calibration.fake_quantization import LayerFakeQuantizer
from vecinfer_hf.calibration.loss import full_precision_states, kl_divergence, model_logits


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_the_full_precision_loss_is_the_models_own(family):
    model = tiny_model(family)
    windows = tiny_inputs(2, 30)
    with torch.no_grad():
        logits = model(windows).logits[:, :-1].float()
    own = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    found = quantization_loss(model, {}, windows)
    assert found.nll_full_precision == pytest.approx(own.item(), rel=1e-4)
    assert (found.kl, found.top1_agreement, found.perplexity_ratio) == (0, 1, 1)


@pytest.fixture
def measured():
    """A model, fake quantizers for it, windows, and options of a measurement."""
    model = tiny_model()
    codebook = random_codebook(model.config, 1, 1)
    layers = {index: LayerFakeQuantizer(layer).requires_grad_(False) for index, layer in codebook.layers.items()}
    return model, layers, tiny_inputs(3, 40), {"sink_length": 2, "residual_length": 8, "sink_choice": "first"}


def test_batches_pieces_and_states_computed_before_change_nothing(measured, monkeypatch):
    model, layers, windows, options = measured
    first = quantization_loss(model, layers, windows, **options)
    assert first.kl > 0
    states = full_precision_states(model, windows)
    assert states.shape == (3, 40, 64)
    monkeypatch.setattr(loss, "_LOGITS_CPU", 97 * 7)
    again = quantization_loss(model, layers, windows, batch_size=3, full_precision=states, **options)
    assert tuple(again) == pytest.approx(tuple(first), rel=1e-4)


def test_only_tokens_that_codes_can_influence_count(measured):
    model, layers, windows, options = measured
    every = quantization_loss(model, layers, windows, **options)
    late = quantization_loss(model, layers, windows, from_start=False, **options)
    # The first ten of 39 predictions read nothing quantized.
    assert late.kl * 29 == pytest.approx(every.kl * 39, rel=1e-4)


def test_the_gradient_of_the_divergence_is_its_slope():
    model = tiny_model()
    hidden = run_body(model, tiny_inputs(1, 12)).detach()
    shift = torch.randn_like(hidden)
    moved = (hidden + 0.1 * shift).requires_grad_(True)
    value = kl_divergence(model, hidden, moved)
    (gradient,) = torch.autograd.grad(value, moved)
    target, own = (model_logits(model, states).double().log_softmax(-1) for states in (hidden, moved))
    assert value.item() == pytest.approx((target.exp() * (target - own)).sum(-1).mean().item(), rel=1e-4)
    step = 1e-2
    values = [kl_divergence(model, hidden, (moved + sign * step * shift).detach()) for sign in (1, -1)]
    slope = (values[0] - values[1]).item() / (2 * step)
    assert (gradient * shift).sum().item() == pytest.approx(slope, rel=2e-2)
