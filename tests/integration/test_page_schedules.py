# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Random schedules of continuous batching against the page rule, simulated apart from the package."""

import random

import package_adapter as adapter
import pytest
import torch
from page_simulation import PageRule, Simulation
from schedules import random_schedule, run_schedule
from tiny_codebooks import random_codebook
from tiny_models import tiny_model
from transformers import ContinuousBatchingConfig
from transformers.generation.continuous_batching import offloading_manager

from vecinfer_hf import enable
from vecinfer_hf.integration.continuous_batching import why_unsupported


if why_unsupported() is None:
    from vecinfer_hf.integration import paged_manager


pytestmark = pytest.mark.skipif(why_unsupported() is not None, reason=f"{why_unsupported()}")
FAMILIES = ("llama", "qwen3", "gemma2", "gpt_oss")
SINKS = 4
SECTION = 128
"""Tokens of a section here; short, so that texts of some hundred tokens have several."""
_models: dict = {}


def model_and_simulation(family, page_tokens, window):
    """A tiny enabled model of a family, and its simulation."""
    if family not in _models:
        model = tiny_model(family)
        _models[family] = model, random_codebook(model.config, mean=True)
    model, codebook = _models[family]
    enable(model, codebook, sink_length=SINKS, residual_length=window, ops_backend="reference")
    codes = {index: adapter.layer_codes(codebook, index) for index in codebook.layers}
    pages = -(-window // page_tokens)
    return model, Simulation(model, PageRule(page_tokens, pages, SECTION, SINKS, "small_values", codes))


@pytest.fixture(autouse=True)
def _test_conditions(monkeypatch):
    """Short sections; and swap space that is not pinned, as a machine without a GPU has no pinned memory."""
    empty = torch.empty

    class Torch:
        def __getattr__(self, name):
            return getattr(torch, name)

        @staticmethod
        def empty(*args, pin_memory=False, **kwargs):
            return empty(*args, **kwargs)

    monkeypatch.setattr(offloading_manager, "torch", Torch())
    monkeypatch.setattr(paged_manager, "SHARE_TOKENS", SECTION)


def settings(seed):
    """Random options of a batch: pages, memory, chunks of prompts, sharing."""
    choice = random.Random(1000 + seed)
    page = choice.choice((32, 32, 64))
    tight = choice.random() < 0.5
    return {
        "page_size": page,
        "num_blocks": (15 if page == 32 else 8) if tight else 300,
        "max_batch_tokens": choice.choice((24, 64, 300)),
        "max_requests_per_batch": choice.choice((2, 4, 16)),
        "max_blocks_per_request": choice.choice((0, 4)),
        "allow_block_sharing": choice.random() < 0.7,
        "cpu_offload_space": choice.choice((0.0, 0.001)),
        "scheduler_type": choice.choice(("fifo", "prefill_first")),
        "safety_margin": choice.choice((0.0, 0.15)),
    }


def check(family, seed, window=None, **changes):
    options = settings(seed)
    window = random.Random(2000 + seed).choice((0, 32, 50)) if window is None else window
    options |= changes
    if family in ("gemma2", "gpt_oss"):
        # Sliding layers need whole sectors of their own, and cannot go back to the end of a page.
        options |= {"num_blocks": 300, "cpu_offload_space": 0.0}
    model, simulation = model_and_simulation(family, options["page_size"], window)
    plan = random_schedule(seed)
    outcome = run_schedule(model, plan, ContinuousBatchingConfig(**options))
    for name, (prompt, generated) in outcome.answers.items():
        if generated:
            wrong = simulation.difference(prompt, generated)
            assert wrong is None, f"{family}, schedule {seed}, {options}: request {name}: {wrong}"
    for number, planned in enumerate(plan):
        names = [f"r{number}", *(f"r{number}__child#{child}" for child in range(planned.children))]
        if planned.cancel is None:
            for name in names:
                assert name in outcome.finished, f"request {name} has no answer"
                assert len(outcome.answers[name][1]) == planned.new_tokens
    return outcome


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_follow_the_page_rule(family):
    check(family, FAMILIES.index(family))


@pytest.mark.parametrize("family", ["llama", pytest.param("qwen3", marks=pytest.mark.slow)])
def test_sharing_and_memory_change_no_token(family):
    """The same schedule with and without shared prefixes, block tables and room: the same answers."""
    outcomes = [
        check(family, 6 if family == "llama" else 5, window=32, page_size=32, **options)
        for options in (
            {"num_blocks": 300, "allow_block_sharing": True, "max_blocks_per_request": 8},
            {"num_blocks": 300, "allow_block_sharing": False, "max_blocks_per_request": 0},
            {"num_blocks": 15, "max_requests_per_batch": 16, "cpu_offload_space": 0.001, "safety_margin": 0.0},
        )
    ]
    assert outcomes[0].shared > 0
    assert outcomes[1].shared == 0
    assert outcomes[2].preempted > 0
    finished = [{name: outcome.answers[name] for name in outcome.finished} for outcome in outcomes]
    common = set.intersection(*(set(each) for each in finished))
    assert len(common) > 3
    for name in common:
        assert finished[0][name] == finished[1][name] == finished[2][name]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("family", FAMILIES)
def test_many_schedules_follow_the_page_rule(family, part):
    """500 schedules in all; sharing, preemption and moves to the CPU must occur in every part that can have them."""
    shared = preempted = 0
    for seed in range(100 + 13 * part, 113 + 13 * part):
        outcome = check(family, seed + 1000 * FAMILIES.index(family))
        shared, preempted = shared + outcome.shared, preempted + outcome.preempted
    if family in ("llama", "qwen3"):
        assert shared > 0
        assert preempted > 0
