# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Which model a codebook belongs to, and which models can have one at all.

Owns the reading of a transformers config: layers, heads, sizes, and the refusals that can be decided from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from .errors import UnsupportedModelError


_LOOPS = ("n_recurrent_loops", "loop_num_passes")
"""Config fields that say how often a model (Dory, Inkling2 Loop; transformers 5.24) runs some of its layers."""

_LAYER_TYPES = (
    "attention",
    "chunked_attention",
    "conv",
    "dense",
    "dummy",
    "full_attention",
    "hybrid",
    "hybrid_sliding",
    "linear_attention",
    "mamba",
    "mlp",
    "moe",
    "sliding_attention",
    "sparse",
)
"""Entries of a config's `layer_types` whose attention, if any, is softmax attention under transformers' own mask."""


def unwrapped(model: torch.nn.Module) -> PreTrainedModel:
    """Return the transformers model inside a wrapper: PEFT's, `torch.compile`'s or a data-parallel one.

    Raises:
        UnsupportedModelError: if there is none.
    """
    inner: Any = model
    while not isinstance(inner, PreTrainedModel):
        if callable(getattr(inner, "get_base_model", None)):
            inner = inner.get_base_model()
        elif isinstance(getattr(inner, "_orig_mod", None), torch.nn.Module):
            inner = inner._orig_mod
        elif isinstance(getattr(inner, "module", None), torch.nn.Module):
            inner = inner.module
        else:
            raise UnsupportedModelError(
                f"{type(model).__name__} is no transformers model and no known wrapper of one; give the "
                "PreTrainedModel inside it."
            )
    return inner


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the config of the language model inside `config` (itself for a text model)."""
    return config.get_text_config(decoder=True)


def head_dim(config: PreTrainedConfig) -> int:
    """Return the size of one attention head."""
    try:
        return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    except (AttributeError, RuntimeError) as error:
        raise UnsupportedModelError(
            f"{config.model_type} has heads of another size in each layer ({error}), which is not supported here. Use "
            "the default cache for it."
        ) from error


def num_key_value_heads(config: PreTrainedConfig) -> int:
    """Return the number of key/value heads."""
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def unsupported_reason(config: PreTrainedConfig) -> str | None:
    """Return why a model with this config cannot have a VecInfer cache, or None if it can."""
    if getattr(config, "is_encoder_decoder", False):
        return (
            f"{config.model_type} is an encoder-decoder model; only decoder-only models are supported. "
            "Use the default cache for it"
        )
    config = text_config(config)
    if getattr(config, "kv_lora_rank", None):
        return (
            f"{config.model_type} caches latent vectors (multi-head latent attention, kv_lora_rank="
            f"{config.kv_lora_rank}), which are compressed already. Use the default cache for it"
        )
    if getattr(config, "num_kv_shared_layers", None):
        return (
            f"{config.model_type} shares keys and values between layers (num_kv_shared_layers="
            f"{config.num_kv_shared_layers}), which is not supported. Use the default cache for it"
        )
    unknown = sorted(set(getattr(config, "layer_types", None) or ()) - set(_LAYER_TYPES))
    if unknown:
        return (
            f"{config.model_type} has layers of the types {unknown}, which choose the keys they attend to in a way "
            "of their own. Use the default cache for it"
        )
    for name in _LOOPS:
        if (getattr(config, name, None) or 1) > 1:
            return (
                f"{config.model_type} runs layers several times, each time with a cache of their own ({name}="
                f"{getattr(config, name)}), which is not supported. Use the default cache for it"
            )
    return None


def unsupported_model_reason(model: PreTrainedModel) -> str | None:
    """Return why `model` cannot have a VecInfer cache, or None if it can; also what only its class can tell."""
    reason = unsupported_reason(model.config)
    if reason is None and not getattr(model, "_supports_attention_backend", False):
        reason = (
            f"{type(model).__name__} does not call its attention through transformers' attention interface. "
            "Use the default cache for it"
        )
    supports_cache = getattr(model, "_supports_default_dynamic_cache", None)
    if reason is None and supports_cache is not None and not supports_cache():
        reason = f"{type(model).__name__} has a cache class of its own. Use the default cache for it"
    return reason


def check_supported(model: PreTrainedModel) -> None:
    """Raise UnsupportedModelError unless `model` can have a VecInfer cache."""
    reason = unsupported_model_reason(model)
    if reason:
        raise UnsupportedModelError(f"No VecInfer cache for this model: {reason}.")


def full_attention_layers(config: PreTrainedConfig) -> list[int]:
    """Return the indices of the layers that grow with the context: those the default cache gives a `DynamicLayer`."""
    stock = DynamicCache(config=text_config(config)).layers
    return [index for index, layer in enumerate(stock) if type(layer) is DynamicLayer]


class HeadShape(NamedTuple):
    """The heads of one layer's cache: their number, and the elements of a key and of a value."""

    num_key_value_heads: int
    key_head_dim: int
    value_head_dim: int


@dataclass(frozen=True)
class ModelIdentity:
    """The model that a codebook belongs to.

    Args:
        name: Hub id or directory; "" if it has none.
        revision: commit that it was loaded from, or None.
        model_type: transformers' type of the language model.
        num_hidden_layers: layers of the language model.
        layers: layer index -> HeadShape, for the layers with full attention.
        keys_from_values: those of them whose keys are a fixed function of their values (Gemma 4, `attention_k_eq_v`).
    """

    name: str
    revision: str | None
    model_type: str
    num_hidden_layers: int
    layers: Mapping[int, HeadShape] = field(hash=False)
    keys_from_values: frozenset[int] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """Return the identity as plain JSON values."""
        return {
            "name": self.name,
            "revision": self.revision,
            "model_type": self.model_type,
            "num_hidden_layers": self.num_hidden_layers,
            "layers": [
                {"index": index, **shape._asdict(), "keys_from_values": index in self.keys_from_values}
                for index, shape in sorted(self.layers.items())
            ],
        }


def head_shapes(config: PreTrainedConfig) -> dict[int, HeadShape]:
    """Return the heads of each layer with full attention; they may differ from layer to layer."""
    layers = text_config(config).per_layer_config
    shapes = {}
    for index in full_attention_layers(config):
        key_head_dim = head_dim(layers[index])
        value_head_dim = getattr(layers[index], "v_head_dim", None) or key_head_dim
        shapes[index] = HeadShape(num_key_value_heads(layers[index]), key_head_dim, value_head_dim)
    return shapes


def model_identity(config: PreTrainedConfig) -> ModelIdentity:
    """Return what a codebook must agree with: type, layers, and the heads of those with full attention."""
    inner, shapes = text_config(config), head_shapes(config)
    return ModelIdentity(
        getattr(config, "_name_or_path", "") or "",
        getattr(config, "_commit_hash", None),
        inner.model_type,
        inner.num_hidden_layers,
        shapes,
        frozenset(shapes if getattr(inner, "attention_k_eq_v", False) else ()),
    )


def check_identity(codebook: ModelIdentity, model: ModelIdentity) -> str | None:
    """Return how the two identities differ in a way that forbids using the codebook, or None."""
    made_for = f"({codebook.name})" if codebook.name else "(a model without a name)"
    for name in ("model_type", "num_hidden_layers"):
        ours, theirs = getattr(codebook, name), getattr(model, name)
        if ours != theirs:
            return f"it was made for {name} {ours!r} {made_for}, the model has {theirs!r}"
    if set(codebook.layers) != set(model.layers):
        return (
            f"it covers layers {sorted(codebook.layers)}, the model's layers with full attention are "
            f"{sorted(model.layers)}"
        )
    for index, shape in codebook.layers.items():
        for name, ours, theirs in zip(HeadShape._fields, shape, model.layers[index], strict=True):
            if ours != theirs:
                return f"it was made for {name} {ours} in layer {index} {made_for}, the model has {theirs}"
    if codebook.keys_from_values != model.keys_from_values:
        return (
            f"it was made for keys that are a function of values in layers {sorted(codebook.keys_from_values)} "
            f"{made_for}, the model has them in layers {sorted(model.keys_from_values)}"
        )
    return None
