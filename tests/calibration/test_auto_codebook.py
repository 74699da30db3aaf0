# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""auto_codebook.py and auto_plan.py: a codebook from nothing but the model, within time and memory."""

from types import SimpleNamespace

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model

from vecinfer_hf import VecInferCache, enable
from vecinfer_hf.calibration import auto_codebook, auto_plan
from vecinfer_hf.calibration.auto_codebook import auto_config, make_codebook
from vecinfer_hf.calibration.auto_plan import make_plan
from vecinfer_hf.calibration.gradients import gradients_possible
from vecinfer_hf.codebook.fingerprint import weights_fingerprint


SHORT = {"max_position_embeddings": 512}
"""Windows of 512 tokens: the tests take seconds."""


@pytest.fixture
def tiny():
    return tiny_model("llama", **SHORT)


def plan(model, budget=5.0, step=0.01, config=None):
    return make_plan(model, config or auto_config(None, None), budget, lambda rows, tokens: step)


def test_a_codebook_from_nothing_serves_the_model(tiny):
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    codebook = make_codebook(tiny, budget=0.2, progress=False)
    assert 1.5 <= codebook.bits_per_element <= auto_codebook.MORE_BITS
    assert codebook.weights_fingerprint == weights_fingerprint(tiny)
    assert codebook.metrics["held_back"].keys() == {"text", "kl_divergence", "perplexity_ratio"}
    assert codebook.metrics["held_back"]["text"] == "own text"
    assert codebook.provenance["plan"]["seconds"] > 0
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())
    assert enable(tiny, codebook).generate(tiny_inputs(), max_new_tokens=3).shape == (1, 43)


def test_the_users_text_is_read_instead_of_own_text(tiny):
    ids = tiny_inputs(3, 512)
    codebook = make_codebook(tiny, None, {"mine": ids}, key_bits=4, value_bits=1, budget=0.5, progress=False)
    assert {entry["name"].rsplit(" ", 1)[0] for entry in codebook.provenance["texts"]} == {"mine"}
    assert codebook.mean_bits.key_bits == 4
    assert codebook.mean_bits.value_bits == 1
    assert "held_back" not in codebook.metrics


def test_it_can_be_made_inside_inference_mode(tiny):
    with torch.inference_mode():
        codebook = make_codebook(tiny, None, {"mine": tiny_inputs(2, 512)}, key_bits=2, budget=0.5, progress=False)
    assert not any(
        tensor.is_inference() for layer in codebook.layers.values() for tensor in layer if tensor is not None
    )
    VecInferCache(tiny, codebook)


def test_bad_quality_gets_more_bits(tiny, monkeypatch):
    configs = []

    def calibrate(model, texts, config, **options):
        configs.append(config)
        codebook = random_codebook(model.config)
        codebook.config = config
        return codebook

    found = iter([SimpleNamespace(kl=1.0, perplexity_ratio=1.5), SimpleNamespace(kl=0.01, perplexity_ratio=1.01)])
    monkeypatch.setattr(auto_codebook, "calibrate", calibrate)
    monkeypatch.setattr(auto_codebook, "_quality", lambda *_: next(found))
    codebook = make_codebook(tiny, None, {"mine": tiny_inputs(2, 512)}, budget=0.5, progress=False)
    assert [config.allocate for config in configs] == [auto_codebook.MEAN_BITS, auto_codebook.MORE_BITS]
    assert codebook.metrics["held_back"]["kl_divergence"] == 0.01


def test_a_plan_reads_more_text_in_more_time(tiny):
    plans = [plan(tiny, budget) for budget in (0.5, 50.0)]
    assert plans[0].windows < plans[1].windows
    assert plans[0].config.num_iterations <= plans[1].config.num_iterations
    assert all(own.rows * own.row_length <= max(own.windows * 512, 2 * 128) for own in plans)


def test_a_plan_writes_less_where_writing_is_slow(tiny):
    assert plan(tiny, 30.0, step=0.001).row_length > plan(tiny, 30.0, step=0.2).row_length


@pytest.mark.parametrize(
    ("most_rows", "most_tokens", "longest", "needed", "expected"),
    [
        (128, 1e6, 1024, 65536, (64, 1024)),  # time and memory for everything
        (128, 1e6, 300, 65536, (128, 256)),  # little time: short rows, as many as there may be
        (128, 13000, 1024, 65536, (12, 1024)),  # little memory
        (16, 1e6, 1024, 3000, (3, 1024)),  # no more than what is read
        (16, 1e6, 5, 3000, (16, 128)),  # no time: the least
    ],
)
def test_rows_are_as_long_as_time_and_memory_allow(most_rows, most_tokens, longest, needed, expected):
    assert auto_plan._shape_of_text(most_rows, most_tokens, longest, needed) == expected


def test_little_memory_gives_short_windows_then_no_gradients(tiny, monkeypatch):
    needed = auto_plan.recomputed_bytes(tiny, 1, 512, 4)
    for free, recipe in ((10 * needed, "default"), (0.5 * needed, "query")):
        monkeypatch.setattr(auto_plan, "free_bytes", lambda device, free=free: free)
        found = plan(tiny)
        assert found.config.recipe == recipe
        assert ("does not fit" in found.why) == (recipe == "query")
    model = tiny_model("llama")
    middle = auto_plan.recomputed_bytes(model, 1, 1024, 4)
    monkeypatch.setattr(auto_plan, "free_bytes", lambda device: middle / auto_plan.ACTIVATIONS)
    assert plan(model, 500.0).config.sequence_length == 1024


class _ForwardOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states):
        return states.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError("this kernel has no backward")


def test_weights_without_gradients_get_the_recipe_without(tiny):
    assert gradients_possible(tiny) is None
    tiny.model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: _ForwardOnly.apply(output))
    assert "no backward" in gradients_possible(tiny)
    found = plan(tiny)
    assert found.config.recipe == "query"
    assert "no backward" in found.why
    codebook = make_codebook(tiny, None, {"mine": tiny_inputs(2, 512)}, key_bits=2, budget=0.5, progress=False)
    assert codebook.config.recipe == "query"


def test_a_planned_config_can_be_used_again(tiny):
    config = plan(tiny).config
    assert type(config).from_dict(config.to_dict()) == config
