# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""gradients.py: the recorded gradients are the slopes of the model's own loss."""

import pytest
import torch
from tiny_models import FAMILIES, tiny_inputs, tiny_model

from vecinfer_hf.calibration.attention import attention_function, run_body
from vecinfer_hf.calibration.fake_quantization import doubled_attention
from vecinfer_hf.calibration.gradients import record_gradients
from vecinfer_hf.calibration.loss import model_logits
from vecinfer_hf.calibration.recorder import sample_tokens
from vecinfer_hf.errors import ConfigError
from vecinfer_hf.model_info import full_attention_layers


OPTIONS = {"sink_length": 2, "residual_length": 8}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_gradients(family):
    model = tiny_model(family)
    layers = full_attention_layers(model.config)
    states = record_gradients(model, tiny_inputs(2, 90), layers, **OPTIONS)
    assert list(states) == layers
    for own in states.values():
        heads, dim = own.keys.shape[0], own.keys.shape[2]
        assert own.keys.shape == own.key_gradients.shape == own.value_gradients.shape == (heads, 2 * 80, dim)
        # Directions are counted alike, so the trace is the share of tokens that have any gradient: all but none.
        assert torch.all(own.key_fisher.diagonal(dim1=-2, dim2=-1).sum(-1) <= 1 + 1e-4)
        assert own.value_gradients.abs().amax() > 0


def test_gradients_predict_the_change_of_the_loss():
    """The recorded gradient is the slope of -log p(labels) along a change of one quantized value."""
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
        def quantized(module, query, key, value):
            if module.layer_idx != 0:
                return None
            moved = value.clone()
            moved[0, 1, 2 + 5, 3] += shift
            return key, moved

        with torch.no_grad(), attention_function(model, doubled_attention(quantized, 2, 8)):
            out = model_logits(model, run_body(model, ids)[:, 10:]).log_softmax(-1)
        return -out.gather(-1, labels).sum().item()

    slope = (loss(step) - loss(-step)) / (2 * step)
    # `model_logits` is float32: its rounding of sums near 100, divided by the step.
    assert states.value_gradients[1, 5, 3].item() == pytest.approx(slope, rel=1e-2, abs=100 * 2**-24 / step)


def test_short_windows_are_refused():
    with pytest.raises(ConfigError, match="11 tokens have no quantized ones"):
        record_gradients(tiny_model(), tiny_inputs(1, 11), [0], **OPTIONS)
