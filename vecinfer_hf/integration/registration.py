# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The hooks into transformers: generate's cache choice, the attention registry, the quantizer registry.

Owns every change to another library's state; each is additive, made once, and undone by `uninstall`. The names it
relies on are private, so `install` checks them first and says what still works if they have moved.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.generation import configuration_utils as generation_configuration
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils import logging

from ..attention.masks import vecinfer_mask
from ..config import VecInferConfig
from . import continuous_batching, generate_call
from .attention_switch import NAME
from .compat import CACHE_ARGUMENT
from .forward import vecinfer_attention_forward
from .hf_quantizer import VecInferQuantizer
from .refill import wrap_prepare_inputs
from .saving import wrap_save_pretrained


logger = logging.get_logger(__name__)


class Hook(NamedTuple):
    """A method of transformers that is wrapped: its class and name, its first parameters, and the wrapper."""

    owner: type
    name: str
    parameters: tuple[str, ...]
    wrap: Callable[[Callable], Callable]


HOOKS = (
    Hook(GenerationMixin, "generate", ("self", "inputs", "generation_config"), generate_call.wrap_generate),
    Hook(
        GenerationMixin,
        "_prepare_cache_for_generation",
        ("self", "generation_config", "model_kwargs", "generation_mode", "batch_size", "max_cache_length"),
        generate_call.wrap_prepare_cache,
    ),
    Hook(
        GenerationMixin,
        "prepare_inputs_for_generation",
        ("self", "input_ids", "next_sequence_length"),
        wrap_prepare_inputs,
    ),
    Hook(
        GenerationMixin,
        "_update_model_kwargs_for_generation",
        ("self", "outputs", "model_kwargs"),
        generate_call.wrap_update_model_kwargs,
    ),
    Hook(
        GenerationMixin,
        "init_continuous_batching",
        ("self", "generation_config"),
        continuous_batching.wrap_init_continuous_batching,
    ),
    Hook(
        GenerationMixin,
        "_valid_auto_compile_criteria",
        ("self", "model_kwargs", "generation_config"),
        generate_call.wrap_compile_criteria,
    ),
    Hook(PreTrainedModel, "save_pretrained", ("self", "save_directory"), wrap_save_pretrained),
    Hook(PreTrainedModel, "get_compiled_call", ("self", "compile_config"), generate_call.wrap_compiled_call),
)


def self_check() -> list[str]:
    """Return what has moved in transformers so that a hook cannot be installed; empty if all is well."""
    problems = []
    implementations = getattr(generation_configuration, "ALL_CACHE_IMPLEMENTATIONS", None)
    if not isinstance(implementations, tuple):
        problems.append("generation.configuration_utils.ALL_CACHE_IMPLEMENTATIONS is no tuple")
    for owner, name, parameters, _ in HOOKS:
        method = getattr(owner, name, None)
        if not callable(method):
            problems.append(f"{owner.__name__}.{name} is missing")
        elif tuple(inspect.signature(method).parameters)[: len(parameters)] != parameters:
            problems.append(f"{owner.__name__}.{name} takes other parameters than {parameters}")
        elif name == "prepare_inputs_for_generation" and CACHE_ARGUMENT not in inspect.signature(method).parameters:
            problems.append(f"{owner.__name__}.{name} takes no {CACHE_ARGUMENT}")
    if not isinstance(getattr(PreTrainedConfig, "_attn_implementation", None), property):
        problems.append("PreTrainedConfig._attn_implementation is no property")
    return problems


def install() -> None:
    """Register "vecinfer" as cache implementation, attention, attention mask and quantization method. Idempotent."""
    AttentionInterface.register(NAME, vecinfer_attention_forward)
    # Without a mask entry transformers drops the mask, and padded batches go wrong silently.
    AttentionMaskInterface.register(NAME, vecinfer_mask)
    _register_quantizer()
    problems = self_check()
    if problems:
        logger.warning_once(
            f'vecinfer: generate(cache_implementation="vecinfer") is not available with this transformers '
            f'({"; ".join(problems)}). A model with attn_implementation="vecinfer" still takes a '
            "VecInferCache(model.config, codebook); please report it."
        )
        return
    if NAME not in generation_configuration.ALL_CACHE_IMPLEMENTATIONS:
        generation_configuration.ALL_CACHE_IMPLEMENTATIONS += (NAME,)
    for owner, name, _, wrap in HOOKS:
        original = getattr(owner, name)
        if not hasattr(original, "_vecinfer_original"):
            wrapper = wrap(original)
            wrapper._vecinfer_original = vars(owner).get(name)
            setattr(owner, name, wrapper)


def uninstall() -> None:
    """Undo `install` in generate; the attention and quantizer entries stay, since loaded models may name them."""
    generation_configuration.ALL_CACHE_IMPLEMENTATIONS = tuple(
        name for name in generation_configuration.ALL_CACHE_IMPLEMENTATIONS if name != NAME
    )
    for owner, name, _, _ in HOOKS:
        hook: Any = vars(owner).get(name)
        if not hasattr(hook, "_vecinfer_original"):
            continue
        if hook._vecinfer_original is None:
            # transformers has it in a class further up.
            delattr(owner, name)
        else:
            setattr(owner, name, hook._vecinfer_original)


def _register_quantizer() -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

    # Both registries refuse a second registration, as a re-import after a reload would be.
    if NAME not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(NAME)(VecInferConfig)
    if NAME not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(NAME)(VecInferQuantizer)
