# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Random schedules of continuous batching, step by step in this thread: who arrives, is cancelled, forks, and when.

Owns the schedule and the drive of transformers' batch processor; page_simulation.py says what answers must be.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.requests import RequestState


@dataclass
class Planned:
    """One request: arrival, prompt, tokens it wants, children, and how long after arrival it is cancelled."""

    step: int
    prompt: list[int]
    new_tokens: int
    children: int = 0
    cancel: int | None = None


@dataclass
class Outcome:
    """What came of a schedule.

    Args:
        answers: name -> (prompt, generated tokens), of cancelled requests what they had by then.
        finished: names of the requests that ended by themselves.
        shared: tokens of prompts that were not computed because their pages were known.
        preempted: requests that were put back because memory was short.
        offloaded: those of them whose pages were moved to the CPU.
    """

    answers: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    shared: int = 0
    preempted: int = 0
    offloaded: int = 0


def random_schedule(seed: int, vocabulary: int = 97, longest: int = 150) -> list[Planned]:
    """Return requests with random arrivals, lengths, shared beginnings, forks and cancellations."""
    choice = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [choice.randrange(2, vocabulary) for _ in range(count)]

    beginnings = [tokens(choice.choice((32, 70, 128, 140))) for _ in range(2)]
    plan = []
    for _ in range(choice.randint(3, 7)):
        own = tokens(choice.randint(1, longest if choice.random() < 0.4 else 40))
        prompt = choice.choice(beginnings) + own if choice.random() < 0.6 else own
        wanted = choice.randint(1, 120 if choice.random() < 0.3 else 45)
        plan.append(
            Planned(
                choice.randrange(0, 30),
                prompt,
                wanted,
                choice.choice((0, 0, 0, 1, 2)),
                choice.randrange(1, 60) if choice.random() < 0.2 else None,
            )
        )
    return plan


def run_schedule(model, plan: list[Planned], config: ContinuousBatchingConfig, most_steps: int = 3000) -> Outcome:
    """Run a schedule with the model's own manager of continuous batching and return its outcome.

    Raises:
        AssertionError: if it does not end, or if blocks or slots are not given back.
    """
    generation = GenerationConfig(max_new_tokens=4, do_sample=False, eos_token_id=-1)
    manager = model.init_continuous_batching(generation, config)
    processor = manager._create_batch_processor()
    outcome, states = Outcome(), {}
    _count_events(processor, outcome)
    try:
        for step in range(most_steps):
            for number, planned in enumerate(plan):
                name = f"r{number}"
                if planned.step == step:
                    states[name] = RequestState(
                        name,
                        list(planned.prompt),
                        max_new_tokens=planned.new_tokens,
                        eos_token_id=-1,
                        num_children=planned.children,
                        streaming=True,
                    )
                    manager.input_queue.put(states[name])
                if planned.cancel is not None and step == planned.step + planned.cancel:
                    manager.cancel_queue.put(name)
            with torch.no_grad():
                if processor.prepare_next_batch():
                    processor._generation_step(model)
                    processor.update_batch()
            _collect(manager, outcome)
            arrived = step >= max(planned.step for planned in plan)
            if arrived and not processor.has_pending_requests() and manager.input_queue.empty():
                break
        else:
            raise AssertionError(f"the schedule has not ended after {most_steps} steps")
        cache = processor.cache
        if hasattr(cache, "codes"):
            assert not cache.codes.slots
            assert len(cache.codes.free_slots) == cache.num_slots
            assert not cache.codes.ledger.shared_ref_counts
            pages = cache.codes.count_pages()
            assert pages["used"] == 0
            assert pages["free"] + pages["kept"] == pages["total"]
    finally:
        if manager._original_attn_impl is not None:
            model.set_attn_implementation(manager._original_attn_impl)
    return outcome


def _collect(manager, outcome: Outcome) -> None:
    while not manager.output_router.output_queue.empty():
        result = manager.output_router.output_queue.get()
        assert result.error is None, result.error
        outcome.answers[result.request_id] = result.prompt_ids, result.generated_tokens
        if result.is_finished():
            outcome.finished.add(result.request_id)


def _count_events(processor, outcome: Outcome) -> None:
    cache, offloading, scheduler = processor.cache, processor.offloading_manager, processor.scheduler
    match, offload, wait = cache.search_prefix_match, offloading.offload_requests, scheduler.add_waiting_request

    def search_prefix_match(*args):
        found = match(*args)
        outcome.shared += found
        return found

    def offload_requests():
        def add_waiting_request(state):
            outcome.preempted += 1
            outcome.offloaded += state.is_cpu_offloaded
            wait(state)

        scheduler.add_waiting_request = add_waiting_request
        try:
            return offload()
        finally:
            scheduler.add_waiting_request = wait

    cache.search_prefix_match, offloading.offload_requests = search_prefix_match, offload_requests
