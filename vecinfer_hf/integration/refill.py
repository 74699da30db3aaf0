# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Caches that a model drops in the middle of a `generate` call, and fills anew.

Models with longrope (Phi-3, Phi-4-mini, PhiMoE) do so where a text grows beyond `original_max_position_embeddings`:
all keys change there. transformers goes on with a new cache; here the same cache is emptied and filled again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from ..errors import UnsupportedCallError
from ..model_info import text_config
from .compat import CACHE_ARGUMENT
from .generate_call import GenerateCall


def wrap_prepare_inputs(original: Callable) -> Callable:
    """Wrap `GenerationMixin.prepare_inputs_for_generation`, which models that drop their cache call without it."""

    @functools.wraps(original)
    def prepare_inputs_for_generation(self, input_ids, next_sequence_length=None, *args, **kwargs):
        call = GenerateCall.of(self)
        is_dropped = call is not None and call.cache is not None and not args and kwargs.get(CACHE_ARGUMENT) is None
        if is_dropped and kwargs.get("use_cache") is not False:
            is_chunk = call.in_chunks and kwargs.get("is_first_iteration")
            _empty(call, input_ids, next_sequence_length, kwargs.get("attention_mask"), is_chunk)
            kwargs[CACHE_ARGUMENT] = call.cache
        return original(self, input_ids, next_sequence_length, *args, **kwargs)

    return prepare_inputs_for_generation


def _empty(
    call: GenerateCall,
    input_ids: torch.Tensor,
    next_sequence_length: int | None,
    attention_mask: torch.Tensor | None,
    is_chunk: bool,
) -> None:
    """Empty the cache of a call; the next forward pass fills it.

    Args:
        call: the call.
        input_ids: int64 `[B, T]`, what the pass is given.
        next_sequence_length: how many of them it takes, or None for all.
        attention_mask: the call's mask, or None.
        is_chunk: whether `input_ids` are a part of the prompt.

    Raises:
        UnsupportedCallError: if the pass is not given the whole text; the cache is as it was.
    """
    held, given = int(call.cache.get_seq_length()), input_ids.shape[1]
    columns = given if attention_mask is None else attention_mask.shape[-1]
    columns = max(columns, held + given) if is_chunk else columns
    if next_sequence_length is not None or given != columns or given < held:
        limit = getattr(text_config(call.model.config), "original_max_position_embeddings", None)
        raise UnsupportedCallError(
            f"{type(call.model).__name__} computes all keys anew for texts of more than {limit} tokens, but this call "
            f"brings {given} of {max(columns, held)} tokens. Give generate the whole text as input_ids, and no "
            "prefill_chunk_size."
        )
    call.cache.reset()
    call.past_length = 0
