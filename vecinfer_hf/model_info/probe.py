# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Asks a model's code what its attention does with a cache: one forward pass of a copy without weights.

The copy is the language model alone, made from its config on the meta device, where nothing is allocated or computed.
Owns the pass and what it found; refusals.py judges it.
"""

from __future__ import annotations

import copy
import inspect
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    LinearAttentionAndFullAttentionLayer,
)
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from .layers import full_attention_layers, text_config
from .opaque import OpaqueStates


_NAME = "vecinfer-probe"
_TOKENS = 3


@dataclass
class Probe:
    """What a forward pass of the copy did.

    Args:
        readers: layer that stored -> the layers whose attention got its keys and values, by their `layer_idx`.
        head_dims: layer that stored -> elements of a key and of a value.
        heads: layer that stored -> query heads and key/value heads.
        keywords: names of the keyword arguments, not None, that attention got with keys and values of these layers.
        misuse: what the code did with keys or values instead of handing them to attention; None if nothing.
        failure: the error that ended the pass for another reason; the other fields are then incomplete.
    """

    readers: dict[int, list[int | None]] = field(default_factory=dict)
    head_dims: dict[int, tuple[int, int]] = field(default_factory=dict)
    heads: dict[int, tuple[int, int]] = field(default_factory=dict)
    keywords: set[str] = field(default_factory=set)
    misuse: str | None = None
    failure: str | None = None


_current: ContextVar[Probe | None] = ContextVar("vecinfer_probe", default=None)
_done: dict[tuple[type, str], Probe] = {}
"""By class and config; a model's code does not change while a process runs."""


class _Misuse(Exception):
    """The code read keys or values before attention."""


class _Missing(_Misuse, AttributeError):
    """Likewise, as an attribute."""


class _States(OpaqueStates):
    """New keys or values of a layer of the copy, meta `[1, Hkv, T, D]`."""

    __slots__ = ("index", "states")

    def __init__(self, index: int, states: torch.Tensor):
        self.index, self.states = index, states

    def to(self, *args: Any, **kwargs: Any) -> _States:
        return self

    def _refuse(self, use: str) -> NoReturn:
        raise _Misuse(use)

    def _lacks(self, name: str) -> NoReturn:
        raise _Missing(f"reads {name!r} of")


class _Layer(DynamicLayer):
    """A layer with full attention that gives out `_States`."""

    def __init__(self, replaced: DynamicLayer, index: int):
        vars(self).update(vars(replaced))
        self.index = index

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any):
        _current.get().readers.setdefault(self.index, [])
        return _States(self.index, key_states), _States(self.index, value_states)

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0


class _HybridLayer(_Layer, LinearAttentionAndFullAttentionLayer):
    """The same beside a recurrent state."""


def _attention(module, query, key, value, attention_mask=None, **kwargs: Any):
    """The attention of the copy: notes what it gets, and returns meta `[B, Tq, Hq, Dv]` and None."""
    if isinstance(key, _States) and isinstance(value, _States):
        found = _current.get()
        found.readers[key.index].append(getattr(module, "layer_idx", None))
        found.head_dims[key.index] = key.states.shape[-1], value.states.shape[-1]
        found.heads[key.index] = query.shape[1], key.states.shape[1]
        found.keywords.update(name for name, given in kwargs.items() if given is not None)
        value = value.states
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None


def _mask(*args: Any, **kwargs: Any) -> None:
    """The attention mask of the copy: none."""


def probe(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> Probe:
    """Run a copy of a language model without weights once, and return what its attention did with the cache.

    Args:
        model_class: the class of the language model without its head.
        config: its config.
    """
    key = model_class, config.to_json_string(use_diff=False)
    if key not in _done:
        found = Probe()
        token = _current.set(found)
        try:
            _run(model_class, config)
        except _Misuse as error:
            found.misuse = str(error)
        except Exception as error:
            # The copy may do what the meta device cannot; what the code does is then found out when it runs.
            found.failure = f"{type(error).__name__}: {error}"
        finally:
            _current.reset(token)
        _done[key] = found
    return _done[key]


def cache_of_copy(model_class: type[PreTrainedModel], config: PreTrainedConfig, dtype: torch.dtype) -> Cache:
    """Return the default cache of one row after a forward pass of a copy with weights of `dtype`, all on meta.

    Args:
        model_class: the class of the language model without its head.
        config: its config.
        dtype: dtype of the weights.
    """
    token = _current.set(Probe())
    try:
        return _run(model_class, config, dtype)
    finally:
        _current.reset(token)


def _run(model_class: type[PreTrainedModel], config: PreTrainedConfig, dtype: torch.dtype | None = None) -> Cache:
    """Run a copy, its weights in `dtype` (None for float32), and return its cache; layers with codes hold nothing."""
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, _mask)
    config = copy.deepcopy(config)
    config._attn_implementation = {"": _NAME}
    # The others choose rows by value, which meta tensors do not have.
    config._experts_implementation = "batched_mm"
    with torch.random.fork_rng(devices=[]), torch.device("meta"), no_init_weights(), torch.no_grad():
        model = model_class(config).to(dtype).eval()
        cache = DynamicCache(config=config)
        for index in full_attention_layers(config):
            kind = _HybridLayer if type(cache.layers[index]) is LinearAttentionAndFullAttentionLayer else _Layer
            cache.layers[index] = kind(cache.layers[index], index)
        model(torch.zeros(1, _TOKENS, dtype=torch.long), use_cache=True, **{_cache_name(model): cache})
    return cache


def _cache_name(model: PreTrainedModel) -> str:
    """Return what the model's forward calls a cache: `cache` since transformers 5.24, `past_key_values` before."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def language_model(model_or_config: PreTrainedModel | PreTrainedConfig) -> tuple[type | None, PreTrainedConfig]:
    """Return the class, None if unknown, and the config of the language model without its head."""
    if isinstance(model_or_config, PreTrainedModel):
        inner = model_or_config.get_decoder()
        return (type(inner), inner.config) if isinstance(inner, PreTrainedModel) else (None, model_or_config.config)
    config = text_config(model_or_config)
    found = MODEL_MAPPING[type(config)] if type(config) in MODEL_MAPPING else None
    return (found[0] if isinstance(found, (list, tuple)) else found), config
