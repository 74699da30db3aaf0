# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Time and memory of `generate` with the stock cache and with a VecInfer cache, growing and static.

Owns the measurement; random_models.py makes models and codebooks of a given shape, since neither time nor memory
depends on their numbers.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import Cache, DynamicCache, StaticCache

from ..cache.cache import VecInferCache
from ..codebook.codebook import Codebook
from ..integration.compat import cache_argument
from ..model_info import text_config
from .attention import attention_set_to
from .memory import cache_nbytes


STOCK, STOCK_STATIC, VECINFER, VECINFER_STATIC = CACHES = ("stock", "stock static", "vecinfer", "vecinfer static")
"""The caches that are measured; `generate` compiles the decode step of a static one on a GPU."""

WARM_UP_TOKENS = 8
"""Generated tokens that are not timed: the first ones compile and record CUDA graphs."""
_WARM_UP_PROMPT = 1024
"""Tokens of the prompt that is read before the first one that is timed, which would load kernels."""


@dataclass(frozen=True)
class SpeedResult:
    """One cache at one length of the prompt.

    Args:
        cache: one of `CACHES`.
        batch_size: rows.
        context: tokens of each row's prompt.
        prompt_seconds: from the call of `generate` to the first token.
        token_seconds: median time of a further token of all rows.
        cache_nbytes: bytes of tensors that the cache holds at the end.
        peak_nbytes: largest memory allocated on the GPU during the call, weights included; 0 on a CPU.
        problem: why there are no figures, or "".
    """

    cache: str
    batch_size: int
    context: int
    prompt_seconds: float = 0.0
    token_seconds: float = 0.0
    cache_nbytes: int = 0
    peak_nbytes: int = 0
    problem: str = ""

    def to_dict(self) -> dict[str, float | int | str]:
        """Return all fields, and the tokens per second of the whole batch, as plain JSON values."""
        rate = self.batch_size / self.token_seconds if self.token_seconds else 0.0
        return {**asdict(self), "tokens_per_second": rate}


class TokenClock(StoppingCriteria):
    """Never stops `generate`, and notes in `times` when each token was there (seconds of `time.perf_counter`)."""

    def __init__(self):
        self.times: list[float] = []
        self._go_on: torch.Tensor | None = None

    def __call__(self, input_ids, scores, **kwargs):
        synchronize(input_ids.device)
        self.times.append(time.perf_counter())
        if self._go_on is None:
            self._go_on = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        return self._go_on

    def steps(self) -> list[float]:
        """Return the seconds between one token and the next."""
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]


def compare_speed(
    model: PreTrainedModel,
    codebook: Codebook,
    contexts: Sequence[int],
    *,
    batch_size: int = 1,
    new_tokens: int = 40,
    progress: Callable[[str], None] | None = None,
) -> Iterator[SpeedResult]:
    """Yield a result for each of `CACHES` and each length: random prompts, read and continued by `generate`.

    A cache that does not fit the memory gives a result that says so.

    Args:
        model: a causal language model; its attention is the stock caches', and is left as it was.
        codebook: one that fits the model.
        contexts: tokens of the prompts.
        batch_size: rows.
        new_tokens: tokens to generate, of which the first 8 are not timed.
        progress: called with what is measured next.

    Raises:
        ValueError: if too few tokens are generated to time any.
    """
    if new_tokens < WARM_UP_TOKENS + 2:
        raise ValueError(f"new_tokens is {new_tokens}; the first {WARM_UP_TOKENS} are not timed, so use at least 10.")
    room = max(contexts) + new_tokens
    for name in CACHES:
        cache = None
        for context in contexts:
            if progress is not None:
                progress(f"{name}, {context} tokens")
            try:
                if cache is None:
                    _generate(model, name, _cache(model, codebook, name, room), min(context, _WARM_UP_PROMPT), 1, 1)
                if cache is not None and name == VECINFER_STATIC:
                    # Compiled once: what a step costs depends on the tokens in the cache, not on its size.
                    cache.reset()
                else:
                    cache = None
                    release()
                    cache = _cache(model, codebook, name, room if name == VECINFER_STATIC else context + new_tokens)
                result = _measured(model, name, cache, context, batch_size, new_tokens)
            except torch.OutOfMemoryError:
                cache, result = None, SpeedResult(name, batch_size, context, problem="out of memory")
            yield result
        cache = None
        release()


def _measured(
    model: PreTrainedModel, name: str, cache: Cache, context: int, batch_size: int, new_tokens: int
) -> SpeedResult:
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(model.device)
    started, clock = _generate(model, name, cache, context, batch_size, new_tokens)
    return SpeedResult(
        name,
        batch_size,
        context,
        prompt_seconds=clock.times[0] - started,
        token_seconds=statistics.median(clock.steps()[WARM_UP_TOKENS - 1 :]),
        cache_nbytes=cache_nbytes(cache),
        peak_nbytes=torch.cuda.max_memory_allocated(model.device) if cuda else 0,
    )


def _generate(
    model: PreTrainedModel, name: str, cache: Cache, context: int, batch_size: int, new_tokens: int
) -> tuple[float, TokenClock]:
    """Generate behind a random prompt; return when that began and when each token was there."""
    generator = torch.Generator().manual_seed(context)
    ids = torch.randint(text_config(model.config).vocab_size, (batch_size, context), generator=generator)
    ids, clock = ids.to(model.device), TokenClock()
    attention = "vecinfer" if name in (VECINFER, VECINFER_STATIC) else model.config._attn_implementation
    with attention_set_to(model, attention):
        synchronize(model.device)
        started = time.perf_counter()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            **cache_argument(cache),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
    return started, clock


def _cache(model: PreTrainedModel, codebook: Codebook, name: str, size: int) -> Cache:
    config = text_config(model.config)
    if name == STOCK:
        return DynamicCache(config=config)
    if name == STOCK_STATIC:
        return StaticCache(config=config, max_cache_len=size)
    options = {"static": True, "max_cache_len": size} if name == VECINFER_STATIC else {}
    return VecInferCache(model.config, codebook, **options)


def synchronize(device: torch.device) -> None:
    """Wait for everything that was launched on `device`."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release() -> None:
    """Give back the memory of earlier measurements, compiled graphs included."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
