# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The hooks into transformers: generate's cache choice, the attention registry, the quantizer registry.

Owns every change to another library's state; each is additive, made once, and undone by `uninstall`. The names it
relies on are private, so `install` checks them first and says what still works if they have moved.
"""

from __future__ import annotations

import copy
import functools
import inspect
from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.generation import configuration_utils as generation_configuration
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils import logging

from ..attention.masks import vecinfer_mask
from ..cache.cache import VecInferCache
from ..codebook.codebook import Codebook
from ..config import VecInferConfig
from ..model_info import text_config, unsupported_model_reason
from .compat import CACHE_ARGUMENT
from .cuda_graph import decode_call
from .forward import vecinfer_attention_forward
from .hf_quantizer import VecInferQuantizer
from .resolve import resolve


NAME = "vecinfer"
_HOOK = "_prepare_cache_for_generation"
_COMPILE_HOOK = "get_compiled_call"
_PARAMETERS = ("self", "generation_config", "model_kwargs", "generation_mode", "batch_size", "max_cache_length")

logger = logging.get_logger(__name__)


def self_check() -> list[str]:
    """Return what has moved in transformers so that a hook cannot be installed; empty if all is well."""
    problems = []
    implementations = getattr(generation_configuration, "ALL_CACHE_IMPLEMENTATIONS", None)
    if not isinstance(implementations, tuple):
        problems.append("generation.configuration_utils.ALL_CACHE_IMPLEMENTATIONS is no tuple")
    hook = getattr(GenerationMixin, _HOOK, None)
    if hook is None:
        problems.append(f"GenerationMixin.{_HOOK} is missing")
    elif tuple(inspect.signature(hook).parameters)[: len(_PARAMETERS)] != _PARAMETERS:
        problems.append(f"GenerationMixin.{_HOOK} takes other parameters than {_PARAMETERS}")
    if CACHE_ARGUMENT not in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters:
        problems.append(f"GenerationMixin.prepare_inputs_for_generation takes no {CACHE_ARGUMENT}")
    if not callable(getattr(PreTrainedModel, _COMPILE_HOOK, None)):
        problems.append(f"PreTrainedModel.{_COMPILE_HOOK} is missing")
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
            f"({'; '.join(problems)}). Giving generate a VecInferCache(model.config, codebook) still works; "
            "please report it."
        )
        return
    if NAME not in generation_configuration.ALL_CACHE_IMPLEMENTATIONS:
        generation_configuration.ALL_CACHE_IMPLEMENTATIONS += (NAME,)
    original = getattr(GenerationMixin, _HOOK)
    if not hasattr(original, "_vecinfer_original"):
        setattr(GenerationMixin, _HOOK, _wrap(original))
    compiled_call = getattr(PreTrainedModel, _COMPILE_HOOK)
    if not hasattr(compiled_call, "_vecinfer_original"):
        setattr(PreTrainedModel, _COMPILE_HOOK, _wrap_compiled_call(compiled_call))


def uninstall() -> None:
    """Undo `install` in generate; the attention and quantizer entries stay, since loaded models may name them."""
    generation_configuration.ALL_CACHE_IMPLEMENTATIONS = tuple(
        name for name in generation_configuration.ALL_CACHE_IMPLEMENTATIONS if name != NAME
    )
    for owner, name in ((GenerationMixin, _HOOK), (PreTrainedModel, _COMPILE_HOOK)):
        hook = getattr(owner, name)
        if hasattr(hook, "_vecinfer_original"):
            setattr(owner, name, hook._vecinfer_original)


def _register_quantizer() -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

    # Both registries refuse a second registration, as a re-import after a reload would be.
    if NAME not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(NAME)(VecInferConfig)
    if NAME not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(NAME)(VecInferQuantizer)


def _requested(generation_config) -> bool:
    if generation_config.cache_implementation == NAME:
        return True
    cache_config = generation_config.cache_config
    backend = cache_config.get("backend") if isinstance(cache_config, dict) else None
    return backend == NAME and generation_config.cache_implementation in (None, "quantized")


def _size_static_cache(model, generation_config, call: dict[str, Any], options: dict[str, Any]) -> None:
    """Set `max_cache_len` to what this call needs, but never below an earlier one: a new size compiles again."""
    previous = getattr(model, "_previous_max_cache_length", -1)
    # Prompt lookup guesses on past the end of the text, and its guesses are in the cache until they are refused.
    needed = call["max_cache_length"] + (call["generation_config"].prompt_lookup_num_tokens or 0)
    options["max_cache_len"] = max(needed, options.get("max_cache_len") or 0, previous)
    model._previous_max_cache_length = options["max_cache_len"]


def _wrap(original):
    signature = inspect.signature(original)

    @functools.wraps(original)
    def prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs):
        given = model_kwargs.get(CACHE_ARGUMENT)
        if isinstance(given, VecInferCache):
            use_vecinfer_attention(self)
        if not _requested(generation_config) or generation_config.use_cache is False:
            return original(self, generation_config, model_kwargs, *args, **kwargs)
        # `generation_config` is generate's own copy; from here on the request is carried by the cache object.
        options = VecInferConfig.from_cache_config(copy.deepcopy(generation_config.cache_config)).options()
        inherited = getattr(generation_config, "is_assistant", None)
        if given is not None and generation_config.cache_implementation == NAME and not inherited:
            # Two caches were asked for; transformers' own error says so.
            return original(self, generation_config, model_kwargs, *args, **kwargs)
        generation_config.cache_implementation = generation_config.cache_config = None
        # A user's cache wins over a default; an assistant model inherits its target's config but not its codebook.
        if given is None and not inherited:
            if options.get("static"):
                if generation_config.prefill_chunk_size == 1:
                    raise ValueError(
                        "prefill_chunk_size=1 cannot be told from decoding with a static cache; use at least 2."
                    )
                call = signature.bind(self, generation_config, model_kwargs, *args, **kwargs).arguments
                _size_static_cache(self, generation_config, call, options)
            cache = make_cache(self, options)
            if options.get("static") and generation_config.prefill_chunk_size is not None:
                _allocate_static_cache(self, cache, call["batch_size"])
            model_kwargs[CACHE_ARGUMENT] = cache
        return original(self, generation_config, model_kwargs, *args, **kwargs)

    prepare_cache_for_generation._vecinfer_original = original
    return prepare_cache_for_generation


def _wrap_compiled_call(original):
    @functools.wraps(original)
    def get_compiled_call(self, compile_config):
        fallback = original(self, compile_config)
        if text_config(self.config)._attn_implementation != NAME:
            return fallback
        return decode_call(self, compile_config, fallback)

    get_compiled_call._vecinfer_original = original
    return get_compiled_call


def _allocate_static_cache(model, cache: VecInferCache, batch_size: int) -> None:
    """Allocate before a chunked prefill, which may be compiled: inside the graph there would be no fixed address."""
    shape = model._get_static_cache_init_shape()
    if shape is not None:
        num_heads, head_dim = shape
        cache.early_initialization(batch_size, num_heads, head_dim, model.dtype, model.device)


def make_cache(model: PreTrainedModel, options: dict[str, Any]) -> VecInferCache:
    """Return a new cache for `model` and switch its attention to "vecinfer".

    Args:
        model: the model.
        options: checked options of a cache_config. Without `codebook`, the model must carry one.

    Raises:
        ValueError: if the model is not supported or there is no codebook.
    """
    check_model(model)
    options = dict(options)
    codebook = options.pop("codebook", None) or getattr(model, "_vecinfer_codebook", None)
    cache = VecInferCache(model, codebook, **options)
    use_vecinfer_attention(model)
    return cache


def check_model(model: PreTrainedModel) -> None:
    """Raise ValueError unless `model` can run with a VecInfer cache."""
    reason = unsupported_model_reason(model)
    if reason:
        raise ValueError(f"No VecInfer cache for this model: {reason}.")


def use_vecinfer_attention(model: PreTrainedModel) -> None:
    """Switch the model's attention to "vecinfer", remembering what it was. For other caches it acts as SDPA."""
    config = text_config(model.config)
    if config._attn_implementation == NAME:
        return
    model._vecinfer_previous_attention = config._attn_implementation
    names = [name for name in model.config.sub_configs if getattr(model.config, name, None) is config]
    model.set_attn_implementation({name: NAME for name in names} if names else NAME)


def enable(
    model: PreTrainedModel, config: VecInferConfig | None = None, codebook: Codebook | None = None
) -> PreTrainedModel:
    """Make every later `generate` of `model` use a VecInfer cache, whatever quantizes its weights.

    Args:
        model: a decoder-only model.
        config: options; `config.codebook` names the codebook. Saved with the model as `cache_config`.
        codebook: a Codebook object instead of a name. It is not saved with the model.

    Returns:
        The same model.

    Raises:
        ValueError: if the model is not supported, or the codebook is missing or does not fit; the model is unchanged.
    """
    config = config or VecInferConfig()
    check_model(model)
    found, _ = resolve(model, codebook or config, **({} if codebook is None else config.options()))
    if codebook is not None:
        model._vecinfer_codebook = codebook
    cache_config = config.cache_config()
    # A name on the Hub may change what it means; the saved model names the commit.
    if codebook is None and found.source:
        cache_config.update(found.source)
    model.generation_config.cache_config = cache_config
    use_vecinfer_attention(model)
    return model


def disable(model: PreTrainedModel) -> PreTrainedModel:
    """Undo `enable`: later `generate` calls use the stock cache and the attention the model had before.

    Returns:
        The same model.
    """
    generation_config = getattr(model, "generation_config", None)
    if generation_config is not None and _requested(generation_config):
        generation_config.cache_config = generation_config.cache_implementation = None
    previous = getattr(model, "_vecinfer_previous_attention", None)
    if text_config(model.config)._attn_implementation == NAME:
        model.set_attn_implementation(previous or "sdpa")
    for name in ("_vecinfer_previous_attention", "_vecinfer_codebook", "_vecinfer_compiled_call"):
        if hasattr(model, name):
            delattr(model, name)
    return model
