# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of rare uses (tests/test_edges_*.py) share: caches with and without codes, and "right or refused"."""

from __future__ import annotations

from collections.abc import Callable

import package_adapter as adapter
import torch
from refusal import assert_refusal
from tiny_codebooks import random_codebook
from tiny_models import tiny_config, tiny_inputs, tiny_model
from transformers import PreTrainedModel

import vecinfer_hf
from vecinfer_hf import VecInferCache
from vecinfer_hf.integration.compat import cache_argument


REFUSED = object()
"""What `right_or_refused` returns for a call that was refused."""
SLIDING = {"layer_types": ["full_attention", "sliding_attention", "full_attention"], "sliding_window": 12}
"""Three layers, the middle one sliding, for families that have such."""


def sliding_model(family: str = "gemma2", **overrides) -> PreTrainedModel:
    """Return a tiny model of three layers whose middle one attends over a sliding window of 12 tokens."""
    return tiny_model(family, **{"num_hidden_layers": 3, **SLIDING, **overrides})


def new_cache(config, *, exact: bool = False, room: int | None = None, codebook=None, **options) -> VecInferCache:
    """Return a cache with a random codebook.

    Args:
        config: the model's config.
        exact: a window of 4096 tokens, so that nothing is coded; else one of 8.
        room: columns of a static cache; None for a cache that grows.
        codebook: a codebook instead of a random one.
        options: further options of VecInferCache.
    """
    options = {"residual_length": 4096 if exact else 8, "ops_backend": "reference", **options}
    if room is not None:
        options = {**options, "static": True, "max_cache_len": room}
    return VecInferCache(config, random_codebook(config) if codebook is None else codebook, **options)


def run(model: PreTrainedModel, ids: torch.Tensor, cache, **arguments) -> torch.Tensor:
    """Return the logits of a forward pass with a cache."""
    with torch.no_grad():
        return model(ids, **arguments, **cache_argument(cache)).logits


def greedy(model: PreTrainedModel, ids: torch.Tensor, cache=None, new: int = 6, **arguments) -> torch.Tensor:
    """Return prompt and greedy continuation."""
    given = {} if cache is None else cache_argument(cache)
    return model.generate(ids, max_new_tokens=new, do_sample=False, **given, **arguments)


def right_or_refused(call: Callable, own: bool = False):
    """Return what `call` returns, or REFUSED if it raised a clear error; any other exception fails the test.

    With `own` the error must be the package's, not one of transformers.
    """
    try:
        return call()
    except Exception as error:
        assert_refusal(error, own)
        return REFUSED


def refused(call: Callable, *words: str) -> Exception:
    """Return the clear error that `call` raises, which must have these words in its text; fail without one."""
    try:
        call()
    except Exception as error:
        assert_refusal(error)
        missing = [word for word in words if word.lower() not in str(error).lower()]
        if missing:
            raise AssertionError(f"the error does not name {missing}: {error}") from error
        return error
    raise AssertionError("accepted without a word")


ONLINE = {"codebook": "online", "ops_backend": "reference", "residual_length": 8}
"""Options of a cache whose codebook is fitted to the prompt."""
CACHE_NAMES = [None, "hybrid", "static", "dynamic", "offloaded", "quantized"]
"""What a checkpoint's generation config may name as its cache."""


def enabled(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model, enabled with `ONLINE`."""
    return vecinfer_hf.enable(model, vecinfer_hf.VecInferConfig(**ONLINE))


def cache_of(model, **arguments):
    """Return the cache that a `generate` of three tokens used."""
    output = model.generate(
        tiny_inputs(1, 30), max_new_tokens=3, do_sample=False, return_dict_in_generate=True, **arguments
    )
    return adapter.returned_cache(output)


__all__ = [
    "CACHE_NAMES",
    "ONLINE",
    "REFUSED",
    "cache_of",
    "enabled",
    "greedy",
    "new_cache",
    "refused",
    "right_or_refused",
    "run",
    "sliding_model",
    "tiny_config",
    "tiny_model",
]
