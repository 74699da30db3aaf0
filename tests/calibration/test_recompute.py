# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Activations computed twice where memory is short: the same gradients, the model as it was, and when."""

import pytest
import torch
import transformers
from tiny_models import FAMILIES, tiny_inputs, tiny_model

from vecinfer_hf import CalibrationConfig, calibrate
from vecinfer_hf.calibration import recompute
from vecinfer_hf.calibration.attention import attention_function
from vecinfer_hf.calibration.gradients import _leaf_attention, record_gradients
from vecinfer_hf.calibration.recompute import activation_bytes, recomputed_if_needed
from vecinfer_hf.model_info import full_attention_layers


WINDOWS = tiny_inputs(3, 160)
LENGTHS = {"sink_length": 2, "residual_length": 16}


def states_of(model):
    return [(module.training, {name: vars(module)[name] for name in vars(module) if not name.startswith("_")})
            for module in model.modules()]  # fmt: skip


@pytest.fixture
def calls(monkeypatch):
    """What was checkpointed."""
    made, forward = [], recompute.checkpoint
    monkeypatch.setattr(recompute, "checkpoint", lambda *args, **options: made.append(1) or forward(*args, **options))
    return made


def dropping_model():
    """A model whose layers drop activations in training mode."""
    config = transformers.OPTConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, ffn_dim=64, num_attention_heads=4, word_embed_proj_dim=32,
        max_position_embeddings=256, dropout=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.OPTForCausalLM(config).eval()


@pytest.mark.parametrize("family", [*FAMILIES, "opt"])
def test_gradients_are_the_same(family, calls, monkeypatch):
    model = dropping_model() if family == "opt" else tiny_model(family)
    layers = full_attention_layers(model.config)
    before = states_of(model)
    once = record_gradients(model, WINDOWS, layers, **LENGTHS)
    assert not calls
    monkeypatch.setattr(recompute, "free_bytes", lambda device: 0)
    twice = record_gradients(model, WINDOWS, layers, **LENGTHS)
    assert len(calls) == len(WINDOWS) * model.config.num_hidden_layers
    assert states_of(model) == before
    for index in layers:
        for name, value in vars(once[index]).items():
            torch.testing.assert_close(getattr(twice[index], name), value, rtol=1e-5, atol=1e-9)
        assert once[index].key_gradients.abs().max() > 0


def test_refinement_is_the_same(calls, monkeypatch):
    options = {"num_iterations": 2, "num_samples": 256, "key_bits": 1, "value_bits": 1, **LENGTHS}
    config = CalibrationConfig(sequence_length=160, refine_steps=3, **options)

    def refined():
        return calibrate(tiny_model(), WINDOWS, config=config, progress=False)

    once = refined()
    assert not calls
    monkeypatch.setattr(recompute, "free_bytes", lambda device: 0)
    twice = refined()
    assert calls
    for index, layer in once.layers.items():
        for side in ("key", "value"):
            own, other = (getattr(part.layers[index], f"{side}_centroids") for part in (twice, once))
            # Centroids are int8; sums in another order may turn a rounding.
            assert (own.int() - other.int()).abs().max() <= 1
        torch.testing.assert_close(twice.layers[index].key_transform, layer.key_transform, rtol=1e-4, atol=1e-5)


def test_the_model_comes_back_after_an_error(monkeypatch):
    monkeypatch.setattr(recompute, "free_bytes", lambda device: 0)
    model = tiny_model()
    before, inside = states_of(model), []

    def interrupted():
        with recomputed_if_needed(model, 1, 100, 4):
            inside.append(states_of(model) != before)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert inside == [True]
    assert states_of(model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_covers_what_a_pass_keeps(family, dtype):
    """What autograd saves, counted."""
    model = tiny_model(family, dtype=dtype)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    attention, _ = _leaf_attention(set(full_attention_layers(model.config)), 2, 16, "first")
    with attention_function(model, attention), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.base_model(input_ids=tiny_inputs(1, 768), use_cache=False)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = sum(size for pointer, (size, _) in saved.items() if pointer not in weights)
    estimate = activation_bytes(model, 1, 768, dtype.itemsize)
    # The estimate may be a few times as much (sliding layers keep less), but no less.
    assert 0.2 * estimate <= kept <= estimate


def test_a_containers_limit_counts(tmp_path):
    assert recompute._container_bytes(tmp_path) == float("inf")
    (tmp_path / "memory.current").write_text("300\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert recompute._container_bytes(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("1000\n")
    assert recompute._container_bytes(tmp_path) == 700
