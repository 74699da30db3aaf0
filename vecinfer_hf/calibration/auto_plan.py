# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""How a codebook is made within a time and the free memory: measured on this machine before anything is made.

Owns the shares of time and memory and the measurements. auto_codebook.py does what the plan says.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from ..calibration_config import CalibrationConfig
from ..config import check_seconds
from ..distributed.devices import computing_device
from ..model_info import HeadShape, head_shapes, text_config
from ..quantization.quantizer import nearest_centroids
from .fit import MAX_POINTS
from .gradients import gradients_possible, record_gradients
from .recompute import activation_bytes, free_bytes, recomputed_bytes
from .recorder import record_states


BUDGET, BUDGET_CPU = 60.0, 150.0
"""Seconds a codebook may take on a GPU and on a CPU, where nothing else is asked for."""
WRITING, READING, FITTING = 0.4, 0.3, 0.2
"""Shares of the budget: writing text, reading it with gradients, k-means. The rest is for measuring."""
STATES, ACTIVATIONS, WRITING_CACHE = 0.3, 0.4, 0.3
"""Shares of the free memory: recorded keys and values, activations of a window, and the cache of the text written."""
WINDOWS = (2048, 1024, 512)
ROW_LENGTHS = (1024, 512, 256, 128)
ROWS, ROWS_CPU = 128, 16
"""Rows of text that are written side by side, at most, on a GPU and on a CPU."""
FEWEST_WINDOWS = 6
"""Windows that are read at least, and rather than fewer, longer ones."""
_LEVELS = 4
"""Searches of one iteration for the candidates of 1, 2 and 4 bits: the last has two levels."""
_PROBES = 124, 380
"""Tokens behind sinks and full-precision window of the two passes that are timed."""


@dataclass(frozen=True)
class Plan:
    """How a codebook is made.

    Args:
        config: of the calibration.
        rows: texts that the model writes, side by side; 0 where text is given.
        row_length: tokens of each.
        windows: windows of text read, of `config.sequence_length` tokens.
        seconds: expected time.
        nbytes: expected memory beside the weights.
        why: what was given up for time or memory, for the user; empty if nothing.
    """

    config: CalibrationConfig
    rows: int
    row_length: int
    windows: int
    seconds: float
    nbytes: int
    why: str = ""


def make_plan(
    model: PreTrainedModel,
    config: CalibrationConfig,
    budget: float | None,
    write: Callable[[int, int], float] | None,
    own_share: float = 1.0,
) -> Plan:
    """Return the plan for a model.

    Args:
        model: the model, in evaluation mode.
        config: bits, window, sinks and seed; the plan sets the rest.
        budget: seconds, or None for the default.
        write: `(rows, tokens)` -> seconds of a step of writing so many rows, measured; None where text is given.
        own_share: share of the windows that the model writes.

    Raises:
        ConfigError: for a budget that is not a positive number.
    """
    on_cpu = computing_device(model).type == "cpu"
    if budget is None:
        budget = BUDGET_CPU if on_cpu else BUDGET
    check_seconds("budget", budget)
    free, why = free_bytes(computing_device(model)), ""
    recipe, refused = "default", gradients_possible(model)
    if refused is None and _positions(model) < config.sink_length + config.residual_length + _PROBES[0]:
        refused = "the model has too few positions"
    if refused:
        recipe, why = "query", f"the recipe without gradients is used, because {refused}"
    lengths = _windows(model, config, ACTIVATIONS * free, recipe)
    if not lengths:
        recipe, why = (
            "query",
            "the recipe without gradients is used, because a backward pass does not fit the memory",
        )
        lengths = _windows(model, config, ACTIVATIONS * free, recipe)
    reading = _reading_seconds(model, config, recipe)
    # Facts are read on top of the text.
    reading = [seconds / (1 - (config.retrieval_fraction or 0.0)) for seconds in reading]

    def cost(length: int) -> float:
        return length * (reading[0] + reading[1] * length)

    length = next((own for own in lengths if cost(own) * FEWEST_WINDOWS <= READING * budget), lengths[-1])
    # Fewer would give a codebook that is not worth the time: the budget is exceeded, as is announced.
    windows = max(FEWEST_WINDOWS, min(config.num_tokens // length, int(READING * budget / cost(length))))
    iteration = _iteration_seconds(model)
    iterations = int(max(4, min(config.num_iterations, FITTING * budget / iteration)))
    rows = row_length = 0
    writing = 0.0
    if write is not None:
        usable = WRITING_CACHE * free // _state_bytes(model, "query")
        most = int(max(2, min(ROWS_CPU if on_cpu else ROWS, usable // ROW_LENGTHS[-1])))
        step = write(most, ROW_LENGTHS[-1])
        rows, row_length = _shape_of_text(
            most, usable, min(length, int(WRITING * budget / step)), int(own_share * windows * length)
        )
        writing = row_length * step
    config = replace(
        config,
        recipe=recipe,
        # Without gradients the sensitivity of layers would be measured, pass by pass.
        allocate=config.allocate if recipe == "default" else None,
        sensitivity_by="gradients" if config.allocate is not None and recipe == "default" else None,
        sequence_length=length,
        num_tokens=windows * length,
        num_samples=min(_samples(model, STATES * free, recipe), windows * length),
        num_iterations=iterations,
    )
    seconds = 1.15 * (writing + windows * cost(length) + iterations * iteration)
    nbytes = _state_bytes(model, recipe) * config.num_samples + _activations(model, length, free, recipe)
    return Plan(config, rows, row_length, windows, seconds, int(nbytes), why)


def _windows(model: PreTrainedModel, config: CalibrationConfig, usable: float, recipe: str) -> list[int]:
    """Return the lengths of windows that the model has positions for and whose activations fit, longest first.

    Without gradients there is always one.
    """
    limit = min(_positions(model), WINDOWS[0])
    lengths = [own for own in WINDOWS if own <= min(limit, config.sequence_length)] or [limit]
    if recipe != "default":
        return lengths
    return [own for own in lengths if recomputed_bytes(model, 1, own, model.dtype.itemsize) <= usable]


def _positions(model: PreTrainedModel) -> int:
    """Return the tokens of the longest text that the model takes."""
    return getattr(text_config(model.config), "max_position_embeddings", None) or WINDOWS[0]


def _activations(model: PreTrainedModel, length: int, free: float, recipe: str) -> float:
    """Return the bytes of activations of one window, computed twice where they would not fit."""
    if recipe != "default":
        return recomputed_bytes(model, 1, length, model.dtype.itemsize) / 4
    whole = activation_bytes(model, 1, length, model.dtype.itemsize)
    return whole if whole <= 0.6 * free else recomputed_bytes(model, 1, length, model.dtype.itemsize)


def _state_bytes(model: PreTrainedModel, recipe: str) -> int:
    """Return the bytes kept of one token: keys and values of all layers, with their gradients for "default"."""
    shapes = head_shapes(model.config).values()
    elements = sum(shape.num_key_value_heads * (shape.key_head_dim + shape.value_head_dim) for shape in shapes)
    return elements * model.dtype.itemsize * (2 if recipe == "default" else 1)


def _samples(model: PreTrainedModel, usable: float, recipe: str) -> int:
    """Return how many tokens' states may be kept: 1,024 to 16,384."""
    return int(max(1024, min(16384, usable // _state_bytes(model, recipe))))


def _shape_of_text(most_rows: int, most_tokens: float, longest: int, needed: int) -> tuple[int, int]:
    """Return how many rows of how many tokens the model writes: as many tokens as are needed, in the longest rows.

    Args:
        most_rows: rows written side by side, at most.
        most_tokens: tokens of all rows that fit the default cache.
        longest: tokens of a row that there is time for.
        needed: tokens that will be read.
    """
    best = 2, ROW_LENGTHS[-1]
    for length in ROW_LENGTHS:
        rows = int(max(2, min(most_rows, most_tokens // length, -(-needed // length))))
        fits = length <= longest or length == ROW_LENGTHS[-1]
        # Shorter rows have to bring a tenth more: they cover fewer positions.
        if fits and min(rows * length, needed) > 1.1 * min(best[0] * best[1], needed):
            best = rows, length
    return best


def _reading_seconds(model: PreTrainedModel, config: CalibrationConfig, recipe: str) -> tuple[float, float]:
    """Return what reading a token takes, measured: seconds, and seconds for each token of its window."""
    size = text_config(model.config).vocab_size
    first = config.sink_length + config.residual_length
    indices = list(head_shapes(model.config))
    options = {"sink_length": config.sink_length, "num_samples": 1}

    def seconds(length: int) -> float:
        ids = torch.randint(size, (1, length), generator=torch.Generator().manual_seed(0))

        def read() -> None:
            if recipe == "default":
                record_gradients(model, ids, indices, **options, residual_length=config.residual_length)
            else:
                record_states(model, ids, indices, **options)

        return min(_timed(computing_device(model), read) for _ in range(2)) / length

    lengths = [min(first + tokens, _positions(model)) for tokens in _PROBES]
    times = [seconds(length) for length in lengths]
    slope = max(0.0, (times[1] - times[0]) / max(1, lengths[1] - lengths[0]))
    return max(times[1] - slope * lengths[1], 0.1 * times[1]), slope


def _iteration_seconds(model: PreTrainedModel) -> float:
    """Return the seconds of one k-means iteration of all candidates, from one search that is measured."""
    shapes: list[HeadShape] = list(head_shapes(model.config).values())
    problems = 2 * sum(shape.num_key_value_heads for shape in shapes)
    count = problems if computing_device(model).type != "cpu" else 1
    points = torch.zeros(min(count, 64), MAX_POINTS, 4, device=computing_device(model))
    centroids = torch.zeros(len(points), 256, 4, device=computing_device(model))
    best = min(_timed(computing_device(model), lambda: nearest_centroids(points, centroids)) for _ in range(2))
    return 1.5 * _LEVELS * best * problems / len(points)


def _timed(device: torch.device, run: Callable[[], object]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
