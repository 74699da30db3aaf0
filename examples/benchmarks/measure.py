# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""One measurement each: the time per token behind a cache of random tokens, and a prompt's time and memory."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass

import torch
from transformers import PreTrainedModel, StoppingCriteriaList

from vecinfer_hf.evaluation.speed import TokenClock, release, synchronize
from vecinfer_hf.integration.compat import cache_argument

from .caches import CacheKind, fill_randomly


WARM_UP = 8
"""Tokens that are not timed: the first ones compile and record CUDA graphs."""
WARM_UP_PROMPT = 1024
"""Tokens of a prompt that is read before one that is timed."""
CHUNK = 8192
"""Tokens per chunk of a prompt that is not read at once."""


@dataclass
class Row:
    """What was measured of one cache at one context length.

    Args:
        what: "decode", "prefill" or "chunk".
        cache: name of the kind of cache.
        batch_size: rows.
        context: tokens in the cache before (decode, chunk), or tokens of the prompt (prefill).
        seconds: per step of the batch (decode, median), until the first token (prefill), of one chunk (chunk).
        peak_bytes: largest `torch.cuda.max_memory_allocated` of the measurement.
        allocated_bytes: `torch.cuda.memory_allocated` after it, the cache still alive.
        cache_bytes: what the cache says that it takes.
        weight_bytes: the model's parameters.
        problem: why there is no number, or empty.
    """

    what: str
    cache: str
    batch_size: int
    context: int
    seconds: float = 0.0
    peak_bytes: int = 0
    allocated_bytes: int = 0
    cache_bytes: int = 0
    weight_bytes: int = 0
    problem: str = ""

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens of the whole batch per second; of a prompt, its tokens."""
        tokens = self.batch_size * {"prefill": self.context, "chunk": CHUNK}.get(self.what, 1)
        return tokens / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict:
        """Return the row for a JSON file."""
        return {**asdict(self), "tokens_per_second": self.tokens_per_second}


def parameter_nbytes(model: PreTrainedModel) -> int:
    """Return the bytes of the model's parameters, tied ones once."""
    return sum(parameter.nbytes for parameter in model.parameters())


def cache_nbytes(cache) -> int:
    """Return the bytes a cache holds: VecInfer's own count, or those of a stock cache's tensors."""
    if hasattr(cache, "nbytes"):
        return cache.nbytes
    tensors = (value for layer in cache.layers for value in vars(layer).values() if isinstance(value, torch.Tensor))
    return sum(_stored(tensor) for tensor in tensors)


def _stored(tensor: torch.Tensor) -> int:
    """Return the bytes behind a tensor; a quantized one (a tensor subclass) claims those of its dequantized form."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(_stored(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.nbytes


def _measured(call, row: Row, model: PreTrainedModel, optional: object = None) -> Row:
    row.weight_bytes = parameter_nbytes(model)
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(model.device)
    try:
        call(row)
    except torch.OutOfMemoryError:
        row.problem = "out of memory"
    except (ImportError, ValueError, TypeError) as error:
        # Only somebody else's cache may be missing or broken; ours has to run.
        if optional is None:
            raise
        row.problem = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
    if cuda:
        row.peak_bytes = torch.cuda.max_memory_allocated(model.device)
    return row


def measure_decode(
    model: PreTrainedModel,
    kind: CacheKind,
    contexts: list[int],
    batch_size: int = 1,
    new_tokens: int = 40,
    room: int | None = None,
) -> list[Row]:
    """Time decode steps of `generate` at several context lengths with one cache, filled with random tokens.

    Args:
        model: the model.
        kind: the cache. A static one is as large as the longest context asks for, so it is compiled once; what a step
            of VecInfer's costs depends on the tokens in the cache only. transformers' own attends to its whole size
            and is therefore made anew for every context.
        contexts: tokens in the cache.
        batch_size: rows.
        new_tokens: tokens generated per context, of which the first 8 are not timed.
        room: tokens the cache has room for, if more than the longest context needs.
    """
    rows = []
    shared = None
    for context in contexts:
        row = Row("decode", kind.name, batch_size, context)

        def step(row: Row, context: int = context) -> None:
            nonlocal shared
            reusable = kind.static and kind.bits is not None
            if shared is None or not reusable:
                shared = None
                release()
                size = max(room or 0, max(contexts) if reusable else context) + new_tokens + 1
                shared = kind.make(model, size)
            fill_randomly(shared, model, batch_size, context)
            clock = TokenClock()
            generator = torch.Generator().manual_seed(context)
            vocabulary = model.config.get_text_config().vocab_size
            ids = torch.randint(vocabulary, (batch_size, context + 1), generator=generator).to(model.device)
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                **cache_argument(shared),
                max_new_tokens=new_tokens,
                do_sample=False,
                stopping_criteria=StoppingCriteriaList([clock]),
            )
            row.seconds = statistics.median(clock.steps()[WARM_UP:])
            row.cache_bytes = cache_nbytes(shared)
            if model.device.type == "cuda":
                row.allocated_bytes = torch.cuda.memory_allocated(model.device)

        rows.append(_measured(step, row, model, kind.backend))
        if row.problem:
            shared = None
            release()
    shared = None
    release()
    return rows


def measure_prefill(
    model: PreTrainedModel, kind: CacheKind, context: int, batch_size: int = 1, chunk_size: int | None = None
) -> Row:
    """Read one random prompt with `generate`: time to the first token, peak memory, and what stays allocated.

    Args:
        model: the model.
        kind: the cache.
        context: tokens of the prompt.
        batch_size: rows.
        chunk_size: `prefill_chunk_size` of generate, or None for the whole prompt at once.
    """
    name = kind.name if chunk_size is None else f"{kind.name}, chunks of {chunk_size}"
    row = Row("prefill", name, batch_size, context)
    release()

    def step(row: Row) -> None:
        generator = torch.Generator().manual_seed(context)
        vocabulary = model.config.get_text_config().vocab_size
        ids = torch.randint(vocabulary, (batch_size, context), generator=generator).to(model.device)
        # The first prompt of a process also loads kernels.
        warm = kind.make(model, WARM_UP_PROMPT + 1)
        model.generate(ids[:, :WARM_UP_PROMPT], **cache_argument(warm), max_new_tokens=1, disable_compile=True)
        del warm
        cache = kind.make(model, context + 1)
        options = {} if chunk_size is None else {"prefill_chunk_size": chunk_size}
        synchronize(model.device)
        start = time.perf_counter()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            **cache_argument(cache),
            max_new_tokens=1,
            do_sample=False,
            disable_compile=True,
            **options,
        )
        synchronize(model.device)
        row.seconds = time.perf_counter() - start
        row.cache_bytes = cache_nbytes(cache)
        del ids
        if model.device.type == "cuda":
            row.allocated_bytes = torch.cuda.memory_allocated(model.device)

    _measured(step, row, model)
    release()
    return row


@torch.no_grad()
def measure_chunk(model: PreTrainedModel, kind: CacheKind, context: int) -> Row:
    """Time one chunk of a prompt behind `context` random tokens, after one that is not timed.

    Args:
        model: the model.
        kind: the cache.
        context: tokens in the cache before the chunk.
    """
    row = Row("chunk", kind.name, 1, context)
    release()

    def step(row: Row) -> None:
        cache = kind.make(model, context + 2 * CHUNK)
        fill_randomly(cache, model, 1, context - CHUNK)
        generator = torch.Generator().manual_seed(context)
        ids = torch.randint(model.config.get_text_config().vocab_size, (1, CHUNK), generator=generator)
        ids = ids.to(model.device)
        for _ in range(2):
            synchronize(model.device)
            start = time.perf_counter()
            model(ids, **cache_argument(cache), logits_to_keep=1)
            synchronize(model.device)
            row.seconds = time.perf_counter() - start
        row.cache_bytes = cache_nbytes(cache)

    _measured(step, row, model)
    release()
    return row
