# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration leaves a model as it was: after success, an exception or Ctrl-C anywhere, and in torch's modes."""

import gc
import threading
import weakref
from importlib import import_module

import pytest
import torch
from calibration_texts import IDS, same_layers, small_config
from tiny_models import FAMILIES, tiny_inputs, tiny_model
from transformers import AttentionInterface

from vecinfer_hf import calibrate
from vecinfer_hf.calibration import allocate, attention, gradients, recompute
from vecinfer_hf.calibration.attention import attention_function, plain_attention, run_body
from vecinfer_hf.calibration.model_state import evaluation_mode, frozen_parameters


def everything(model):
    """All that calibration could leave behind on a model."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = [
        (module.training, {name: value for name, value in vars(module).items() if not name.startswith("_")})
        for module in model.modules()
    ]
    return (
        model.config.to_dict(),
        model.config._attn_implementation,
        modules,
        [[len(getattr(module, name)) for name in hooks] for module in model.modules()],
        [(name, parameter.requires_grad, parameter.grad) for name, parameter in model.named_parameters()],
    )


def partly_trained(family="llama"):
    """A model in training mode with one layer in evaluation mode and some parameters frozen."""
    model = tiny_model(family).train()
    model.model.layers[0].eval()
    model.model.layers[1].mlp.requires_grad_(False)
    return model


@pytest.mark.parametrize(("family", "recipe"), [*((family, "default") for family in FAMILIES), ("llama", "paper")])
def test_success(family, recipe):
    model = partly_trained(family)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = everything(model)
    config = small_config(recipe=recipe, num_tokens=240, num_iterations=1, refine_steps=int(family == "llama"))
    calibrate(model, IDS, config=config, progress=False)
    assert everything(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def at_call(monkeypatch, module, name, number, error):
    """Let `module.name` raise at one of its calls."""
    original, calls = getattr(module, name), []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == number:
            raise error
        return original(*args, **options)

    monkeypatch.setattr(module, name, interrupted)
    return calls


PLACES = {
    "in the attention of the first pass": ("default", attention, "full_precision_attention", 2),
    "between forward and backward": ("default", gradients, "_label_gradient", 2),
    "after a backward pass": ("default", gradients, "_keep", 3),
    "in the attention without gradients": ("paper", attention, "full_precision_attention", 3),
    "while sensitivity is measured": ("query", allocate, "quantization_loss", 4),
    "in a step of refinement": ("paper", import_module("vecinfer_hf.calibration.refine"), "kl_divergence", 2),
}


@pytest.mark.parametrize("error", [RuntimeError("planted"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_an_exception(monkeypatch, place, error):
    recipe, module, name, number = place
    calls = at_call(monkeypatch, module, name, number, error)
    model = partly_trained()
    before = everything(model)
    config = small_config(recipe=recipe, num_tokens=360, num_iterations=1, num_samples=64, refine_steps=3,
                          allocate=2 if recipe == "query" else None)  # fmt: skip
    with pytest.raises(type(error)):
        calibrate(model, IDS, config=config, progress=False)
    assert len(calls) == number
    assert everything(model) == before
    monkeypatch.undo()
    ids = tiny_inputs(1, 20)
    assert torch.isfinite(model(ids).logits).all()


def test_an_exception_while_activations_are_computed_twice(monkeypatch):
    monkeypatch.setattr(recompute, "free_bytes", lambda device: 0)
    # The second forward pass of a layer, inside the backward pass.
    at_call(monkeypatch, attention, "full_precision_attention", 4, RuntimeError("planted"))
    model = partly_trained()
    before = everything(model)
    with pytest.raises(RuntimeError, match="planted"):
        calibrate(model, IDS, config=small_config(), progress=False)
    assert everything(model) == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_torchs_modes_of_the_caller_change_nothing(mode):
    config = small_config(refine_steps=1, num_iterations=1, num_tokens=240)
    expected = calibrate(tiny_model(), IDS, config=config, progress=False)
    model = tiny_model()
    with mode():
        found = calibrate(model, IDS.clone(), config=config, progress=False)
        assert not torch.is_grad_enabled()
    assert same_layers(found, expected)
    assert not any(tensor.is_inference() for tensor in found.layers[0] if tensor is not None)


def test_a_peft_model_is_calibrated_as_the_model_inside():
    class Wrapped(torch.nn.Module):
        """PEFT's interface, which forwards attributes that it does not have."""

        def __init__(self, model):
            super().__init__()
            self.base_model = model

        def get_base_model(self):
            return self.base_model

    config = small_config(num_tokens=120, num_iterations=1)
    expected = calibrate(tiny_model(), IDS, config=config, progress=False)
    assert same_layers(calibrate(Wrapped(tiny_model()), IDS, config=config, progress=False), expected)


def test_the_registry_keeps_no_function():
    class Seen:
        pass

    model, seen = tiny_model(), Seen()
    gone = weakref.ref(seen)

    def function(*args, seen=seen, **options):
        return plain_attention(*args, **options)

    with attention_function(model, function):
        run_body(model, tiny_inputs(1, 5))
    del function, seen
    gc.collect()
    assert gone() is None
    model.set_attn_implementation(attention._NAME)
    with pytest.raises(RuntimeError, match="still has calibration's attention"):
        run_body(model, tiny_inputs(1, 5))


def test_functions_nest():
    model, ids, order = tiny_model(), tiny_inputs(1, 5), []

    def named(name):
        def function(*args, **options):
            order.append(name)
            return plain_attention(*args, **options)

        return function

    with attention_function(model, named("outer")):
        with attention_function(model, named("inner")):
            run_body(model, ids)
        run_body(model, ids)
    assert order == ["inner"] * 2 + ["outer"] * 2
    assert model.config._attn_implementation == "sdpa"


def test_models_in_several_threads_do_not_meet():
    config = small_config(recipe="query", num_iterations=1, num_tokens=240)
    families = ["llama", "qwen3", "olmo2"]
    expected = [calibrate(tiny_model(family), IDS, config=config, progress=False) for family in families]
    found = {}

    def run(family):
        found[family] = calibrate(models[family], IDS, config=config, progress=False)

    models = {family: tiny_model(family) for family in families}
    threads = [threading.Thread(target=run, args=(family,)) for family in families]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same_layers(found[family], codebook) for family, codebook in zip(families, expected, strict=True))


def test_the_states_of_a_model_are_put_back():
    model = partly_trained()
    before = everything(model)

    def interrupted():
        with evaluation_mode(model), frozen_parameters(model):
            assert not any(module.training for module in model.modules())
            assert not any(parameter.requires_grad for parameter in model.parameters())
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        interrupted()
    assert everything(model) == before


def test_composite_configs_keep_the_attention_of_their_parts():
    from tiny_models import tiny_config
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    text = tiny_config("gemma3").to_dict()
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=5,
                          boi_token_index=6, eoi_token_index=7)  # fmt: skip
    model = Gemma3ForConditionalGeneration(config).eval()
    model.set_attn_implementation({"text_config": "eager", "vision_config": "sdpa"})
    before = [
        part._attn_implementation for part in (model.config, model.config.text_config, model.config.vision_config)
    ]
    codebook = calibrate(model, IDS, config=small_config(recipe="paper"), progress=False)
    assert list(codebook.layers) == [1]
    after = [
        part._attn_implementation for part in (model.config, model.config.text_config, model.config.vision_config)
    ]
    assert after == before
    assert AttentionInterface().get(attention._NAME) is attention._ended
