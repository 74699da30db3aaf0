# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Perplexity with a VecInfer cache next to the stock cache, measured through the real caches.

Owns the feeding of text and the comparison of the two predictions; memory.py counts bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
from transformers import Cache, DynamicCache, PreTrainedModel

from ..cache.cache import VecInferCache
from ..cache.online_codebook import ONLINE
from ..cache.sinks import CANDIDATES
from ..codebook.codebook import Codebook
from ..config import FIRST
from ..distributed.devices import computing_device
from ..integration.compat import cache_argument
from .attention import attention_set_to
from .memory import cache_nbytes


MAX_CHUNK = 16
"""Most tokens of one call: up to here attention runs over the codes, as it does for every generated token."""


@dataclass(frozen=True)
class PerplexityResult:
    """Two caches on the same text. The stock cache runs with the model's own attention, the other with "vecinfer".

    Args:
        perplexity_stock: exp of the mean negative log-likelihood per predicted token, with the stock cache.
        perplexity_vecinfer: the same with the VecInfer cache.
        perplexity_ratio: the second divided by the first; 1 is no loss.
        kl_divergence: mean over tokens of KL(stock || vecinfer) of the next-token distributions, in nats.
        top1_agreement: share of tokens for which both predict the same next token, 0 to 1.
        tokens: predicted tokens.
        windows: separate windows of text, each with fresh caches.
        window_length: tokens per window.
        chunk_length: tokens per call.
        prompt_length: first tokens of each window, given in one call and not counted.
        batch_size: windows per call.
        residual_length: recent tokens the cache keeps exact.
        sink_length: early tokens the cache keeps exact.
        sink_choice: which ones, see `VecInferConfig.sink_choice`.
        bits_per_element: bits stored per key or value element of a coded token.
        elements_per_token: key and value elements of one token over all layers with codes.
        bytes_per_token: bytes of its codes.
        bytes_per_token_stock: bytes of the same elements in the stock cache.
        cache_nbytes: bytes allocated by the VecInfer cache after one batch: codes, window, sinks, codebooks.
        cache_nbytes_stock: bytes allocated by the stock cache at the same point.
        dtype: dtype of the stock cache, and of the exact window and sinks.
        seconds_stock: time of all calls with the stock cache.
        seconds_vecinfer: time of all calls with the VecInfer cache.
    """

    perplexity_stock: float
    perplexity_vecinfer: float
    perplexity_ratio: float
    kl_divergence: float
    top1_agreement: float
    tokens: int
    windows: int
    window_length: int
    chunk_length: int
    prompt_length: int
    batch_size: int
    residual_length: int
    sink_length: int
    sink_choice: str
    bits_per_element: float
    elements_per_token: int
    bytes_per_token: float
    bytes_per_token_stock: int
    cache_nbytes: int
    cache_nbytes_stock: int
    dtype: str
    seconds_stock: float
    seconds_vecinfer: float

    def to_dict(self) -> dict[str, float | int | str]:
        """Return all fields as plain JSON values."""
        return asdict(self)


class _Side:
    """One of the two caches with the attention it runs with, and the time spent."""

    def __init__(self, model: PreTrainedModel, attention: str):
        self.model, self.attention, self.seconds = model, attention, 0.0

    def read(self, ids: torch.Tensor, cache: Cache) -> None:
        """Give the cache a prompt; nothing is predicted."""
        with attention_set_to(self.model, self.attention):
            self.model.base_model(ids, **cache_argument(cache), use_cache=True)

    def logits(self, ids: torch.Tensor, cache: Cache) -> torch.Tensor:
        started = time.perf_counter()
        with attention_set_to(self.model, self.attention):
            logits = self.model(ids, **cache_argument(cache), use_cache=True).logits.float()
        if logits.is_cuda:
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - started
        return logits


class _Sums:
    """Sums over tokens, in float64, of what the result averages."""

    def __init__(self):
        self.tokens = 0
        self.values = dict.fromkeys(("nll_stock", "nll_vecinfer", "kl", "agree"), 0.0)

    def add(self, stock_logits: torch.Tensor, vecinfer_logits: torch.Tensor, targets: torch.Tensor) -> None:
        stock, vecinfer = stock_logits.log_softmax(-1), vecinfer_logits.log_softmax(-1)
        picked = targets.unsqueeze(-1)
        for name, amount in (
            ("nll_stock", -stock.gather(-1, picked)),
            ("nll_vecinfer", -vecinfer.gather(-1, picked)),
            ("kl", (stock.exp() * (stock - vecinfer)).sum(-1)),
            ("agree", stock.argmax(-1) == vecinfer.argmax(-1)),
        ):
            self.values[name] += amount.double().sum().item()
        self.tokens += targets.numel()

    def mean(self, name: str) -> float:
        return self.values[name] / self.tokens


@torch.inference_mode()
def evaluate_perplexity(
    model: PreTrainedModel,
    windows: torch.Tensor,
    codebook: Codebook | str | None = None,
    *,
    chunk_length: int = MAX_CHUNK,
    prompt_length: int = 0,
    batch_size: int = 1,
    progress: Callable[[int], None] | None = None,
    **cache_options,
) -> PerplexityResult:
    """Measure the perplexity of text with a VecInfer cache and with the stock cache.

    The text is fed in chunks of at most 16 tokens, each call on the cache the calls before it left, so that every
    token reads codes for everything older than the exact window: what happens to a generated token. (A chunk shortens
    the window by up to `chunk_length - 1` tokens for its first tokens: the figure is on the careful side.) Sinks are
    chosen from the first chunk, which is therefore as long as the choice asks for (68 tokens) or as the exact window.

    Args:
        model: a causal language model; its attention implementation is the stock side's, and is left as it was.
        windows: int64 `[windows, window_length]`, as `text_windows` returns them.
        codebook: what `VecInferCache` accepts.
        chunk_length: tokens per call, 1 to 16.
        prompt_length: first tokens of each window, given in one call and not counted: what `codebook="online"` is
            fitted to, anew for each batch.
        batch_size: windows per call.
        progress: called with the number of tokens done after each chunk.
        cache_options: further arguments of `VecInferCache`: residual_length, sink_length, ops_backend, ...

    Returns:
        A `PerplexityResult`.

    Raises:
        ValueError: for a chunk length outside 1..16, windows with fewer than 2 tokens after the prompt, or an online
            codebook without a prompt.
    """
    if not 1 <= chunk_length <= MAX_CHUNK:
        raise ValueError(f"chunk_length is {chunk_length}; it must be 1 to {MAX_CHUNK}, the longest decode step.")
    if windows.shape[-1] < 2 + prompt_length or prompt_length < 0:
        raise ValueError(
            f"Windows of {windows.shape[-1]} token(s) with a prompt of {prompt_length} have nothing to predict; use "
            "at least 2 more."
        )
    if codebook == ONLINE and prompt_length == 0:
        raise ValueError('codebook="online" is fitted to a prompt; give a prompt_length, half the window for example.')
    stock, vecinfer = _Side(model, model.config._attn_implementation), _Side(model, "vecinfer")
    sums, measured = _Sums(), None
    for rows in windows.split(batch_size):
        ids = rows.to(computing_device(model))
        caches = DynamicCache(config=model.config), VecInferCache(model, codebook, **cache_options)
        if codebook != ONLINE:
            codebook = caches[1].codebook
        if prompt_length:
            for side, cache in zip((stock, vecinfer), caches, strict=True):
                side.read(ids[:, :prompt_length], cache)
        layer = next(iter(caches[1].quantized_layers), None)
        first = chunk_length
        if layer is not None and layer.sink_choice != FIRST and not prompt_length:
            first = max(first, min(layer.sink_length + CANDIDATES, layer.residual_length))
        starts = [prompt_length, *range(prompt_length + first, ids.shape[1] - 1, chunk_length), ids.shape[1] - 1]
        for start, end in pairwise(starts):
            piece = ids[:, start:end]
            targets = ids[:, start + 1 : start + 1 + piece.shape[1]]
            sums.add(stock.logits(piece, caches[0]), vecinfer.logits(piece, caches[1]), targets)
            if progress is not None:
                progress(targets.numel())
        measured = measured or (caches, [cache_nbytes(cache) for cache in caches])
    (_, cache), sizes = measured
    elements = sum(2 * layer.keys.shape[1] * layer.keys.shape[3] for layer in cache.quantized_layers)
    nll_stock, nll_vecinfer = sums.mean("nll_stock"), sums.mean("nll_vecinfer")
    layer = cache.quantized_layers[0]
    return PerplexityResult(
        perplexity_stock=math.exp(nll_stock),
        perplexity_vecinfer=math.exp(nll_vecinfer),
        perplexity_ratio=math.exp(nll_vecinfer - nll_stock),
        kl_divergence=sums.mean("kl"),
        top1_agreement=sums.mean("agree"),
        tokens=sums.tokens,
        windows=windows.shape[0],
        window_length=windows.shape[1],
        chunk_length=chunk_length,
        prompt_length=prompt_length,
        batch_size=min(batch_size, windows.shape[0]),
        residual_length=layer.residual_length,
        sink_length=layer.sink_length,
        sink_choice=layer.sink_choice,
        bits_per_element=cache.bits_per_element,
        elements_per_token=elements,
        bytes_per_token=elements * cache.bits_per_element / 8,
        bytes_per_token_stock=elements * layer.keys.element_size(),
        cache_nbytes=sizes[1],
        cache_nbytes_stock=sizes[0],
        dtype=str(layer.keys.dtype).removeprefix("torch."),
        seconds_stock=stock.seconds,
        seconds_vecinfer=vecinfer.seconds,
    )
