# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Activations computed twice where memory is short: the same gradients, the model as it was, and when."""

import pytest
import torch
from tiny_models import FAMILIES, tiny_inputs, tiny_model

from vecinfer_hf import VecInferConfig, calibrate
from vecinfer_hf.calibration import recompute
from vecinfer_hf.calibration.attention import attention_function
from vecinfer_hf.calibration.gradients import _leaf_attention, record_gradients
from vecinfer_hf.calibration.recompute import activation_bytes, recomputed_if_needed
from vecinfer_hf.model_identity import full_attention_layers


WINDOWS = tiny_inputs(3, 160)
LENGTHS = {"sink_length": 2, "residual_length": 16}


@pytest.fixture
def no_memory(monkeypatch):
    """As if nothing were free."""
    monkeypatch.setattr(recompute, "_free_bytes", lambda device: 0)


def states_of(model):
    return [module.training for module in model.modules()], [
        {name: value for name, value in vars(module).items() if "checkpoint" in name} for module in model.modules()
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same(family, no_memory, monkeypatch):
    model = tiny_model(family)
    layers = full_attention_layers(model.config)
    before = states_of(model)
    twice = record_gradients(model, WINDOWS, layers, **LENGTHS)
    assert states_of(model) == before
    monkeypatch.undo()
    once = record_gradients(model, WINDOWS, layers, **LENGTHS)
    for index in layers:
        for name, value in vars(once[index]).items():
            torch.testing.assert_close(getattr(twice[index], name), value, rtol=1e-5, atol=1e-9)
        assert once[index].key_gradients.abs().max() > 0


def test_refinement_is_the_same(no_memory, monkeypatch):
    config = VecInferConfig(
        sequence_length=160, num_iterations=2, num_samples=256, key_bits=1, value_bits=1, **LENGTHS
    )

    def refined():
        return calibrate(tiny_model(), WINDOWS, None, config, refine_steps=3, progress=False)

    calls = []
    forward = recompute.checkpoint
    monkeypatch.setattr(recompute, "checkpoint", lambda *args, **options: calls.append(1) or forward(*args, **options))
    twice = refined()
    assert calls
    monkeypatch.setattr(recompute, "_free_bytes", lambda device: 1 << 40)
    calls.clear()
    once = refined()
    assert not calls
    for index, layer in once.layers.items():
        for side in ("key", "value"):
            own, other = (getattr(part.layers[index], f"{side}_centroids") for part in (twice, once))
            # Centroids are int8; sums in another order may turn a rounding.
            assert (own.int() - other.int()).abs().max() <= 1
        torch.testing.assert_close(twice.layers[index].key_transform, layer.key_transform, rtol=1e-4, atol=1e-5)


def test_the_models_mode_comes_back_after_an_error(no_memory):
    model = tiny_model()
    before, inside = states_of(model), []

    def interrupted():
        with recomputed_if_needed(model, 1, 100, 4):
            inside.append(any(module.training for module in model.modules()))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert inside == [True]
    assert states_of(model) == before


def test_the_estimate_covers_what_a_pass_keeps(monkeypatch):
    """What autograd saves, counted; the estimate may be up to twice as much, and must not be less."""
    model = tiny_model()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    attention, _ = _leaf_attention({0, 1}, 2, 16, "first")
    with attention_function(model, attention), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.base_model(input_ids=tiny_inputs(1, 1500), use_cache=False)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = sum(size for pointer, (size, _) in saved.items() if pointer not in weights)
    assert 0.5 * activation_bytes(model, 1, 1500, 4) <= kept <= activation_bytes(model, 1, 1500, 4)
