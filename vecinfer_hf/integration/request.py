# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a `generate` call asks for a cache of codes, and with which options.

Owns the order of the places that can ask: the call's keywords, its generation config, the model's generation config,
and `enable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import logging

from ..codebook.codebook import Codebook
from ..config import VecInferConfig
from ..errors import ConfigError
from .attention_switch import NAME


ATTRIBUTE = "_vecinfer"
"""The one attribute on a user's model: an `Enabled`, while `enable` is in force."""

logger = logging.get_logger(__name__)


@dataclass
class Enabled:
    """What `enable` found, and what it replaced on the model.

    Args:
        config: the options; its codebook is named as it is saved with the model.
        codebook: the codebook that every call uses, or None for "online", which makes one for each cache.
        attention: the attention implementation before.
        generation_config: the generation config whose entries were replaced.
        cache_config: its `cache_config` before.
        cache_implementation: its `cache_implementation` before.
    """

    config: VecInferConfig
    codebook: Codebook | None
    attention: str
    generation_config: GenerationConfig
    cache_config: Any
    cache_implementation: str | None


@dataclass(frozen=True)
class Request:
    """What a call asks for: the options of its cache, and the codebook if it is known already."""

    config: VecInferConfig
    codebook: Codebook | None = None


def enabled_state(model: PreTrainedModel) -> Enabled | None:
    """Return what `enable` left on `model`, or None if it is not enabled."""
    return vars(model).get(ATTRIBUTE)


def names_vecinfer(cache_config: Any) -> bool:
    """Whether a generation config's `cache_config` asks for a cache of codes."""
    if isinstance(cache_config, VecInferConfig):
        return True
    return isinstance(cache_config, dict) and NAME in (cache_config.get("backend"), cache_config.get("quant_method"))


def given_value(
    name: str, model: PreTrainedModel, keywords: Mapping[str, Any], generation_config: GenerationConfig | None
) -> Any:
    """Return the value that `generate` uses for an entry of its generation config, or None if nothing gives one."""
    places = (generation_config, getattr(model, "generation_config", None))
    values = (keywords.get(name), *(getattr(place, name, None) for place in places))
    return next((value for value in values if value is not None), None)


def requested(
    model: PreTrainedModel, keywords: Mapping[str, Any], generation_config: GenerationConfig | None
) -> Request | None:
    """Return what a call asks for, or None if it asks for no cache of codes.

    A keyword `cache_implementation` decides for its call. Without one, codes are used if the model is enabled or a
    `cache_config` names them, whatever `cache_implementation` a generation config has.

    Args:
        model: the model.
        keywords: the keyword arguments of the call.
        generation_config: the generation config of the call, or None.

    Raises:
        ConfigError: for options that contradict each other or break a rule.
    """
    state = enabled_state(model)
    if getattr(generation_config, "is_assistant", None):
        # It has the generation config of the model that it assists, which has another codebook.
        keywords, generation_config = {}, None
    implementation = given_value("cache_implementation", model, keywords, generation_config)
    cache_config = given_value("cache_config", model, keywords, generation_config)
    named = names_vecinfer(cache_config)
    keyword = keywords.get("cache_implementation")
    if keyword not in (None, NAME, "hybrid") and not (keyword == "quantized" and named):
        if names_vecinfer(keywords.get("cache_config")):
            raise ConfigError(
                f"cache_implementation={keyword!r} and a VecInfer cache_config were given; leave one of them out."
            )
        return None
    if implementation != NAME and not named and state is None:
        return None
    if implementation not in (None, NAME, "quantized", "hybrid"):
        logger.warning_once(
            f"vecinfer: cache_implementation={implementation!r} of the generation config is not used, because codes "
            "were asked for. Give it to generate as a keyword, or call vecinfer_hf.disable(model)."
        )
    return _merged(state, cache_config)


def _merged(state: Enabled | None, cache_config: Any) -> Request:
    """Return the options of a call over those of `enable`."""
    backend = cache_config.get("backend") if isinstance(cache_config, dict) else None
    if backend not in (None, NAME):
        raise ConfigError(
            f"cache_config names the backend {backend!r}, but codes were asked for. Leave it out, or give generate "
            'cache_implementation="quantized" as well.'
        )
    asked = VecInferConfig.from_cache_config(cache_config)
    if state is None:
        return Request(asked)
    place = {name: getattr(asked, name) for name in ("codebook", "revision", "subfolder")}
    if any(value not in (None, getattr(state.config, name)) for name, value in place.items()):
        return Request(asked)
    return Request(replace(state.config, **asked.options()), state.codebook)
