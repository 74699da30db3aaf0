# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""How long greedy generation with a VecInfer cache says the same as with the stock cache. Owns that comparison."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import torch
from transformers import DynamicCache, PreTrainedModel

from ..cache.cache import VecInferCache
from ..codebook.codebook import Codebook
from ..distributed.devices import computing_device
from ..integration.compat import cache_argument
from .attention import attention_set_to
from .memory import cache_nbytes


@dataclass(frozen=True)
class GenerationResult:
    """Greedy continuations of one prompt with both caches.

    Args:
        tokens_stock: generated token ids, stock cache.
        tokens_vecinfer: generated token ids, VecInfer cache.
        agreement_length: tokens until the first difference.
        prompt_tokens: tokens of the prompt.
        cache_nbytes: bytes allocated by the VecInfer cache at the end.
        cache_nbytes_stock: bytes allocated by the stock cache at the end.
        seconds_stock: time of the stock generation, prompt included.
        seconds_vecinfer: time of the other, prompt included.
    """

    tokens_stock: list[int]
    tokens_vecinfer: list[int]
    agreement_length: int
    prompt_tokens: int
    cache_nbytes: int
    cache_nbytes_stock: int
    seconds_stock: float
    seconds_vecinfer: float

    def to_dict(self) -> dict[str, float | int | list[int]]:
        """Return all fields as plain JSON values."""
        return asdict(self)


def greedy_agreement(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    codebook: Codebook | str | None = None,
    max_new_tokens: int = 200,
    streamers: tuple = (None, None),
    **cache_options,
) -> GenerationResult:
    """Generate greedily from one prompt with the stock cache, then with a VecInfer cache.

    Args:
        model: a causal language model, left as it was.
        input_ids: int64 `[1, T]`.
        codebook: what `VecInferCache` accepts.
        max_new_tokens: tokens to generate at most.
        streamers: a transformers streamer for each of the two, or None.
        cache_options: further arguments of `VecInferCache`.

    Returns:
        A `GenerationResult`. An early difference is no measure of quality: one near-tie changes everything after it.

    Raises:
        ValueError: unless there is exactly one prompt.
    """
    if input_ids.dim() != 2 or input_ids.shape[0] != 1:
        raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}; give one prompt, (1, tokens).")
    input_ids = input_ids.to(computing_device(model))
    caches = DynamicCache(config=model.config), VecInferCache(model, codebook, **cache_options)
    attentions = model.config._attn_implementation, "vecinfer"
    tokens, seconds = [], []
    for cache, attention, streamer in zip(caches, attentions, streamers, strict=True):
        started = time.perf_counter()
        with attention_set_to(model, attention):
            output = model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                **cache_argument(cache),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                streamer=streamer,
            )
        tokens.append(output[0, input_ids.shape[1] :].tolist())
        seconds.append(time.perf_counter() - started)
    pairs = zip(*tokens, strict=False)
    agreement = next((i for i, (a, b) in enumerate(pairs) if a != b), min(map(len, tokens)))
    sizes = [cache_nbytes(cache) for cache in caches]
    return GenerationResult(*tokens, agreement, input_ids.shape[1], sizes[1], sizes[0], *seconds)
