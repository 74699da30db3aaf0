# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Which models cannot have a cache of codes, and why: by their config, and by what their code does with a cache."""

from __future__ import annotations

from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError
from .heads import head_shapes
from .layers import full_attention_layers, text_config
from .probe import Probe, language_model, probe


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

_REMEDY = "Use the default cache for it"


def unsupported_reason(config: PreTrainedConfig) -> str | None:
    """Return why a model with this config cannot have a VecInfer cache, or None if its config allows one."""
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        return f"{kind} is an encoder-decoder model; only decoder-only models are supported. {_REMEDY}"
    try:
        config = text_config(config)
    except ValueError as error:
        return f"{kind} has several language models ({error}), each with a cache of its own. {_REMEDY}"
    kind = config.model_type
    if getattr(config, "kv_lora_rank", None):
        return (
            f"{kind} caches latent vectors (multi-head latent attention, kv_lora_rank={config.kv_lora_rank}), which "
            f"are compressed already. {_REMEDY}"
        )
    types = getattr(config, "layer_types", None) or ()
    unknown = {name: [str(i) for i, other in enumerate(types) if other == name] for name in sorted(set(types))}
    unknown = {name: layers for name, layers in unknown.items() if name not in _LAYER_TYPES}
    if unknown:
        named = "; ".join(f"{', '.join(layers)} ({name})" for name, layers in unknown.items())
        return f"{kind} has layers {named}, which choose the keys they attend to in a way of their own. {_REMEDY}"
    for name in _LOOPS:
        if (getattr(config, name, None) or 1) > 1:
            return (
                f"{kind} runs layers several times, each time with a cache of their own ({name}="
                f"{getattr(config, name)}), which is not supported. {_REMEDY}"
            )
    shared = getattr(config, "num_kv_shared_layers", None) or 0
    if shared and shared >= config.num_hidden_layers:
        return f"{kind} reads the keys and values of another model in all its layers. {_REMEDY}"
    return None


def unsupported_model_reason(model: PreTrainedModel) -> str | None:
    """Return why `model` cannot have a VecInfer cache, or None if it can; its code is asked (probe.py)."""
    name, reason = type(model).__name__, unsupported_reason(model.config)
    supports_cache = getattr(model, "_supports_default_dynamic_cache", None)
    if reason is None and supports_cache is not None and not supports_cache():
        reason = f"{name} has a cache class of its own. {_REMEDY}"
    if reason is not None or not full_attention_layers(model.config):
        return reason
    if not type(model)._can_set_attn_implementation():
        return f"{name} does not call its attention through transformers' attention interface. {_REMEDY}"
    found = model_probe(model)
    return None if found is None else code_reason(name, model.config, found)


def model_probe(model: PreTrainedModel) -> Probe | None:
    """Return what the code of the language model in `model` does with a cache; None if it cannot be copied."""
    model_class, config = language_model(model)
    return None if model_class is None else probe(model_class, config)


def code_reason(name: str, config: PreTrainedConfig, found: Probe) -> str | None:
    """Return why the code of a model that `found` describes cannot have a VecInfer cache, or None."""
    if found.misuse is not None:
        return (
            f"{name} {found.misuse} the cached keys or values before its attention, and a VecInfer cache holds codes. "
            f"{_REMEDY}"
        )
    if found.failure is not None:
        return None
    layers = full_attention_layers(config)
    never = [index for index in layers if index not in found.readers]
    if never:
        return f"{name} does not pass the keys and values of layers {never} to its cache. {_REMEDY}"
    unread = [index for index in layers if not found.readers[index]]
    if unread:
        return (
            f"{name} does not call the attention of layers {unread} through transformers' attention interface. "
            f"{_REMEDY}"
        )
    shapes = {index: tuple(shape) for index, shape in head_shapes(config).items()}
    for index, shape in shapes.items():
        real = (found.heads[index][1], *found.head_dims[index])
        if real != shape:
            return (
                f"{name} caches {real[0]} heads of sizes {real[1]} and {real[2]} in layer {index}, its config says "
                f"{shape[0]} of {shape[1]} and {shape[2]}. {_REMEDY}"
            )
    return None


def check_supported(model: PreTrainedModel) -> None:
    """Raise UnsupportedModelError unless `model` can have a VecInfer cache."""
    reason = unsupported_model_reason(model)
    if reason:
        raise UnsupportedModelError(f"No VecInfer cache for this model: {reason}.")
