# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""enable, disable and enabled: every later `generate` of a model uses codes, until that is undone.

Owns what is written on a user's model, and what brings it back. request.py owns how a call reads it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..cache.online_codebook import OnlineCodebook
from ..codebook.codebook import Codebook
from ..config import VecInferConfig
from ..distributed.heads import head_shard
from ..errors import UnsupportedModelError
from ..model_info import check_supported, supported, unwrapped
from .attention_switch import NAME, own_attention, restore_attention, use_vecinfer_attention
from .continuous_batching import forget_manager
from .request import ATTRIBUTE, Enabled, enabled_state, names_vecinfer
from .resolve import resolve


logger = logging.get_logger(__name__)

Model = TypeVar("Model", bound=torch.nn.Module)


def enable(model: Model, codebook: Codebook | VecInferConfig | str | Path | None = None, **options: Any) -> Model:
    """Make every later `generate` of `model` use a VecInfer cache, whatever quantizes its weights.

    The model's attention becomes "vecinfer", and `model.generation_config.cache_config` holds the options, so that
    they are saved with the model. A `cache_implementation` in the generation config is put aside; one that a call
    gives as a keyword still decides for that call.

    Args:
        model: a decoder-only model, also inside a wrapper of PEFT or `torch.compile`.
        codebook: a Codebook, a VecInferConfig, a name or directory, or None for "auto", which makes one where it finds
            none. `model.save_pretrained` writes it beside the weights.
        options: fields of a VecInferConfig by name; they replace those of a given VecInferConfig.

    Returns:
        The same model.

    Raises:
        UnsupportedModelError: if the model cannot have such a cache.
        ConfigError: for an option that is unknown, breaks a rule or contradicts the codebook.
        CodebookError: if the codebook cannot be found or does not fit. The model is unchanged after each of these.
    """
    inner = unwrapped(model)
    check_supported(inner)
    generation_config = getattr(inner, "generation_config", None)
    if generation_config is None:
        raise UnsupportedModelError(
            f"{type(inner).__name__} has no generate, which `enable` is for. Give it the model with its language head "
            "(AutoModelForCausalLM), or give this one a VecInferCache."
        )
    # Refuses a number of processes that cannot share the heads.
    head_shard(inner)
    found, config = resolve(inner, codebook, **options)
    cache_config = {**config.cache_config(), **(found.source or {})}
    config = VecInferConfig.from_cache_config(cache_config)
    state, attention = enabled_state(inner), use_vecinfer_attention(inner)
    if state is None or state.generation_config is not generation_config:
        before = generation_config.cache_config, generation_config.cache_implementation
        if names_vecinfer(before[0]):
            # The entries of a model that was saved while enabled; `disable` must not bring them back.
            before = None, None
    else:
        before = state.cache_config, state.cache_implementation
    if state is not None and attention == NAME:
        attention = state.attention
    kept = None if isinstance(found, OnlineCodebook) else found
    setattr(inner, ATTRIBUTE, Enabled(config, kept, attention, generation_config, *before))
    generation_config.cache_config, generation_config.cache_implementation = cache_config, None
    if _has_quantization_config(inner):
        inner.config.quantization_config = copy.copy(config)
    logger.info("vecinfer: " + "; ".join(line.removeprefix("- ") for line in str(supported(inner)).split("\n")))
    return model


def disable(model: Model) -> Model:
    """Undo `enable`: later `generate` calls use the default cache and the attention the model had before.

    The entries of `model.generation_config` and the attention come back unless they were set to something else since
    `enable`; those stay. A model that was loaded with a VecInfer `quantization_config` or `cache_config` loses it.

    Returns:
        The same model.
    """
    inner = unwrapped(model)
    state, generation_config = enabled_state(inner), getattr(inner, "generation_config", None)
    before: tuple[Any, Any] = None, None
    forget_manager(inner)
    if state is not None:
        delattr(inner, ATTRIBUTE)
        restore_attention(inner, state.attention)
        if generation_config is state.generation_config:
            before = state.cache_config, state.cache_implementation
    if generation_config is not None:
        if names_vecinfer(generation_config.cache_config):
            generation_config.cache_config = before[0]
        if generation_config.cache_implementation in (None, NAME):
            generation_config.cache_implementation = before[1]
    if _has_quantization_config(inner):
        del inner.config.quantization_config
        for name in ("hf_quantizer", "quantization_method"):
            vars(inner).pop(name, None)
    return model


@contextmanager
def enabled(
    model: Model, codebook: Codebook | VecInferConfig | str | Path | None = None, **options: Any
) -> Iterator[Model]:
    """Use a VecInfer cache within a `with` block; afterwards the model is exactly as before, also after an error.

    Args:
        model, codebook, options: as for `enable`.
    """
    inner = unwrapped(model)
    state, attention = enabled_state(inner), own_attention(inner)
    generation_config = getattr(inner, "generation_config", None)
    entries = {name: getattr(generation_config, name) for name in _ENTRIES if generation_config is not None}
    quantization_config = getattr(inner.config, "quantization_config", None)
    enable(model, codebook, **options)
    try:
        yield model
    finally:
        forget_manager(inner)
        vars(inner).pop(ATTRIBUTE, None)
        if state is not None:
            setattr(inner, ATTRIBUTE, state)
        inner.generation_config = generation_config  # type: ignore[assignment]  # None came from there
        for name, value in entries.items():
            setattr(generation_config, name, value)
        if quantization_config is not None:
            inner.config.quantization_config = quantization_config
        restore_attention(inner, attention, always=True)


_ENTRIES = ("cache_config", "cache_implementation")


def _has_quantization_config(model: PreTrainedModel) -> bool:
    return isinstance(getattr(model.config, "quantization_config", None), VecInferConfig)
