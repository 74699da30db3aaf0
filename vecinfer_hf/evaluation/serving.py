# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Continuous batching measured on this machine: room, decode steps, prompts, and whole workloads, for both caches.

Owns the measurements. A measurement that fails is told in its row, so that the others go on.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, PreTrainedModel

from ..codebook.codebook import Codebook
from ..integration.enable import enabled
from .serving_session import Session
from .speed import synchronize


WARM_UP, STEPS = 4, 12
"""Decode steps that are not timed, and that are timed."""
PERCENTILES = (50, 90, 99)


@dataclass
class ServingRow:
    """One measurement of one cache.

    Args:
        what: "room", "decode", "prompt" or "workload".
        cache: "default" or "vecinfer".
        shape: of the measurement, in words.
        values: what was measured, by name; seconds, bytes and counts.
        problem: why there is nothing, or empty.
    """

    what: str
    cache: str
    shape: str
    values: dict[str, float] = field(default_factory=dict)
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Workload:
    """Requests that arrive at once: how many, tokens of each prompt, of its beginning that all share, new tokens."""

    name: str
    requests: int
    prompt: int
    shared: int
    new_tokens: int


@dataclass(frozen=True)
class ServingShape:
    """What is measured: the context of the largest batch, a small batch (requests, context), a prompt, workloads."""

    context: int
    small: tuple[int, int]
    prompt: int
    workloads: tuple[Workload, ...]


LARGE = ServingShape(
    8192,
    (8, 2048),
    8192,
    (
        Workload("short chat", 64, 256, 0, 64),
        Workload("8k prompts", 8, 8192, 0, 32),
        Workload("32k prompts, 30k shared", 8, 32768, 30720, 16),
    ),
)
"""For a GPU."""
SMALL = ServingShape(
    512, (4, 256), 512, (Workload("short chat", 6, 64, 0, 8), Workload("512, 448 shared", 4, 512, 448, 8))
)
"""For a CPU."""


def measure_serving(
    model: PreTrainedModel,
    codebook: Codebook,
    shape: ServingShape,
    config: dict[str, Any],
    caches: tuple[str, ...] = ("default", "vecinfer"),
    page_tokens: int = 64,
    progress: Callable[[str], None] | None = None,
) -> Iterator[ServingRow]:
    """Yield one row per measurement and cache.

    Args:
        model: the model.
        codebook: its codebook.
        shape: what to measure.
        config: options of the ContinuousBatchingConfig for both caches.
        caches: which caches.
        page_tokens: tokens of a page of codes.
        progress: called before each measurement.
    """
    requests, context = shape.small
    measurements: list[tuple[str, str, Callable]] = [
        ("room", f"requests of {shape.context} tokens", lambda run: _room(run, shape.context, codebook)),
        ("decode", f"{requests} requests of {context} tokens", lambda run: _decode(run, requests, context)),
        ("decode", f"all that fit, {shape.context} tokens each", lambda run: _decode(run, 1 << 16, shape.context)),
        ("prompt", f"{shape.prompt} tokens", lambda run: _prompt(run, shape.prompt)),
    ]
    measurements += [("workload", each.name, lambda run, each=each: _workload(run, each)) for each in shape.workloads]
    for what, words, measure in measurements:
        for cache in caches:
            row = ServingRow(what, cache, words)
            if progress is not None:
                progress(f"{what}, {words}, {cache} cache")
            options = dict(config)
            if what == "decode" or what == "room":
                options["allow_block_sharing"] = False
            if cache == "vecinfer":
                options["page_size"] = page_tokens
            try:
                with _session(model, codebook, cache, options) as run:
                    row.values = measure(run)
            except (RuntimeError, ValueError, MemoryError) as error:
                row.problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            yield row


@contextmanager
def _session(model: PreTrainedModel, codebook: Codebook, cache: str, options: dict[str, Any]) -> Iterator[Session]:
    def session() -> Session:
        return Session(model, ContinuousBatchingConfig(**options))

    if cache == "vecinfer":
        with enabled(model, codebook):
            run = session()
            try:
                yield run
            finally:
                run.close()
        return
    run = session()
    try:
        yield run
    finally:
        run.close()


def _room(run: Session, context: int, codebook: Codebook) -> dict[str, float]:
    """Requests of `context` tokens that the cache holds, and its bytes: pages, exact tokens and codebook."""
    count = run.fill(1 << 16, context, 1)
    codes = hasattr(run.cache, "codes")
    held = run.cache.nbytes + codebook.nbytes if codes else run.cache.cache_tensor.nbytes
    return {
        "requests": count,
        "tokens": count * context,
        "cache_bytes": held,
        "bytes_per_token": held / count / context,
    }


def _decode(run: Session, requests: int, context: int) -> dict[str, float]:
    """Seconds of a decode step with that many requests, or as many as fit."""
    run.random_states()
    count = run.fill(requests, context, WARM_UP + STEPS + 1)
    times = []
    for _ in range(WARM_UP + STEPS):
        synchronize(run.model.device)
        started = time.perf_counter()
        run.step()
        synchronize(run.model.device)
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times[WARM_UP:])
    return {"requests": count, "step_seconds": seconds, "tokens_per_second": count / seconds}


def _prompt(run: Session, tokens: int) -> dict[str, float]:
    """Seconds from a prompt to its first token, the median of three after one that is not timed."""
    times = []
    for number in range(4):
        generator = torch.Generator().manual_seed(number)
        prompt = torch.randint(3, run.model.config.get_text_config().vocab_size, (tokens,), generator=generator)
        synchronize(run.model.device)
        started = time.perf_counter()
        run.add(f"prompt {number}", prompt.tolist(), 1)
        while run.step():
            pass
        synchronize(run.model.device)
        times.append(time.perf_counter() - started)
        for output in run.outputs():
            if output.error is not None:
                raise RuntimeError(output.error)
    return {"first_token_seconds": statistics.median(times[1:])}


def _workload(run: Session, work: Workload) -> dict[str, float]:
    """Requests and tokens per second, percentiles of the times to the first and between tokens, pages in use."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = run.model.config.get_text_config().vocab_size

    def tokens(count: int) -> list[int]:
        return torch.randint(3, vocabulary, (count,), generator=generator).tolist()

    beginning = tokens(work.shared)
    synchronize(run.model.device)
    started = time.perf_counter()
    for number in range(work.requests):
        run.add(f"request {number}", beginning + tokens(work.prompt - work.shared), work.new_tokens)
    seen: dict[str, list[float]] = {}
    most_pages = 0
    while run.step():
        now = time.perf_counter() - started
        for output in run.outputs():
            if output.error is not None:
                raise RuntimeError(output.error)
            seen.setdefault(output.request_id, []).append(now)
        if hasattr(run.cache, "codes"):
            most_pages = max(most_pages, run.cache.codes.count_pages()["used"])
    total = time.perf_counter() - started
    first = [times[0] for times in seen.values()]
    between = [b - a for times in seen.values() for a, b in zip(times, times[1:], strict=False)]
    count = sum(len(times) for times in seen.values())
    values = {"requests_per_second": len(seen) / total, "tokens_per_second": count / total, "seconds": total}
    for name, times in (("first_token", first), ("between_tokens", between)):
        for percent in PERCENTILES:
            values[f"{name}_seconds_p{percent}"] = _percentile(times, percent)
    if most_pages:
        values["most_pages"] = most_pages
    return values


def _percentile(times: list[float], percent: int) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0
