# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The comparison that `python -m examples.benchmarks` prints: which caches, contexts and batches, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from transformers import PreTrainedModel

from vecinfer_hf.cache.planner import stock_plan, vecinfer_plan
from vecinfer_hf.calibration_config import CalibrationConfig
from vecinfer_hf.model_info import full_attention_layers, head_shapes, text_config
from vecinfer_hf.quantization.formats import parse_format

from .caches import STOCK, STOCK_QUANTIZED, STOCK_STATIC, CacheKind, vecinfer
from .measure import CHUNK, Row, measure_chunk, measure_decode, measure_prefill, parameter_nbytes


def compare(
    model: PreTrainedModel,
    contexts: list[int],
    static_contexts: list[int],
    bits: list[float | str],
    long_contexts: list[int],
    prefill_contexts: list[int],
    batch_context: int | None,
    memory: int,
    progress: Callable[[str], None],
) -> Iterator[Row]:
    """Yield the rows of the comparison, one measurement after another.

    Args:
        model: the model.
        contexts: contexts at batch 1 for every cache.
        static_contexts: contexts at batch 1 for transformers' static cache, which is compiled anew for each.
        bits: bit widths of VecInfer; the first one is measured in more ways.
        long_contexts: contexts that only the first bit width is measured at.
        prefill_contexts: prompt lengths to read.
        batch_context: context of the throughput comparison, or None for none.
        memory: bytes of the device.
        progress: called with what is measured next.
    """
    ours = vecinfer(bits[0])
    plan = [
        (ours, sorted({*contexts, *long_contexts})),
        (STOCK, contexts),
        (STOCK_STATIC, static_contexts),
    ]
    for kind, lengths in plan:
        progress(f"time per token, {kind.name}")
        yield from measure_decode(model, kind, lengths)
    for context in prefill_contexts:
        for kind in (STOCK, ours):
            progress(f"prompt of {context} tokens, {kind.name}")
            yield measure_prefill(model, kind, context)
    if prefill_contexts:
        progress(f"prompt of {max(prefill_contexts)} tokens in chunks of {CHUNK}, {ours.name}")
        yield measure_prefill(model, ours, max(prefill_contexts), chunk_size=CHUNK)
    if long_contexts:
        progress(f"a chunk of {CHUNK} tokens behind {max(long_contexts)}, {ours.name}")
        yield measure_chunk(model, ours, max(long_contexts))
    if batch_context:
        for kind in (ours, STOCK, STOCK_STATIC):
            progress(f"largest batch at {batch_context} tokens, {kind.name}")
            yield largest_batch(model, kind, batch_context, memory)
    for kind in [*(vecinfer(width) for width in bits[1:]), *STOCK_QUANTIZED]:
        progress(f"time per token, {kind.name}")
        yield from measure_decode(model, kind, contexts)


def largest_batch(model: PreTrainedModel, kind: CacheKind, context: int, memory: int) -> Row:
    """Measure the throughput of the largest batch that runs, starting from what the plan says fits.

    Args:
        model: the model.
        kind: the cache.
        context: tokens in the cache of every row.
        memory: bytes of the device.
    """
    weights = parameter_nbytes(model)
    layers = len(full_attention_layers(model.config))
    tokens = context + 32
    if kind.bits is None:
        plan = stock_plan(model.config, model.dtype)
        inner = text_config(model.config)
        # transformers repeats one layer's keys and values for every query head.
        group = inner.num_attention_heads // next(iter(head_shapes(inner).values())).num_key_value_heads
        tokens = int(tokens * (1 + group / layers))
    else:
        fmt, lengths = parse_format(kind.bits), CalibrationConfig()
        plan = vecinfer_plan(
            model.config,
            [(fmt, fmt)] * layers,
            lengths.residual_length,
            lengths.sink_length,
            model.dtype,
            matrices=False,
        )
    # 4 % of the device are the context of CUDA, libraries and activations of one step.
    batch = max(1, plan.largest_batch(0.96 * memory - weights, tokens))
    while True:
        row = measure_decode(model, kind, [context], batch, new_tokens=28)[0]
        if not row.problem or batch == 1:
            return row
        batch = min(batch - 1, int(batch * 0.94))


def break_even(rows: list[Row], ours: str, theirs: str) -> float | None:
    """Return the context from which `ours` takes less time per token than `theirs` at batch 1, interpolated.

    Args:
        rows: measured rows.
        ours: name of one kind of cache.
        theirs: name of another.

    Returns:
        The context; 0 if `ours` is faster at every context measured, None if at none.
    """
    times = {
        name: {row.context: row.seconds for row in rows if _is_step(row) and row.cache == name}
        for name in (ours, theirs)
    }
    shared = sorted(times[ours].keys() & times[theirs].keys())
    gains = [(context, times[theirs][context] - times[ours][context]) for context in shared]
    if not gains or gains[-1][1] <= 0:
        return None
    # The last context at which we lose; from there on we win.
    losing = [index for index, (_, gain) in enumerate(gains) if gain <= 0]
    if not losing:
        return 0.0
    (left, loss), (right, gain) = gains[losing[-1]], gains[losing[-1] + 1]
    return left + (right - left) * -loss / (gain - loss)


def slope(rows: list[Row], name: str) -> float | None:
    """Return the seconds per token of context of a cache's decode step: least squares over its rows at batch 1."""
    points = [(row.context, row.seconds) for row in rows if _is_step(row) and row.cache == name]
    if len(points) < 2:
        return None
    contexts, seconds = torch.tensor(points, dtype=torch.float64).T
    centred = contexts - contexts.mean()
    return (centred @ seconds / (centred @ centred)).item()


def _is_step(row: Row) -> bool:
    return row.what == "decode" and row.batch_size == 1 and not row.problem
