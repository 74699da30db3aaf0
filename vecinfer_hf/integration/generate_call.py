# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""One `generate` call: it makes the cache that was asked for, checks that the model used it, and undoes the switch.

Owns the wrappers around transformers' methods; registration.py puts them in place. A wrapper that has nothing to do
calls transformers' method unchanged.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace

from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import ModelOutput

from ..cache.cache import VecInferCache
from ..config import VecInferConfig
from ..distributed.devices import computing_device
from ..errors import UnsupportedCallError, UnsupportedModelError
from ..model_info import check_supported
from .attention_switch import NAME, attention_of_call, has_vecinfer_attention, own_attention
from .compat import CACHE_ARGUMENT, returned_cache
from .cuda_graph import decode_call
from .recorded_decode import RecordedDecode, records
from .request import Request, enabled_state, given_value, requested


_current: ContextVar[GenerateCall | None] = ContextVar("vecinfer_generate_call", default=None)
"""The innermost call of this thread."""


class GenerateCall:
    """A `generate` call that runs now.

    Args:
        model: the model.
        request: what the call asks for, or None.
    """

    def __init__(self, model: PreTrainedModel, request: Request | None):
        self.model = model
        self.request = request
        self.cache: VecInferCache | None = None
        self.past_length = 0
        self.prepared = False
        self.early_exit = False
        self.in_chunks = False
        self.outer: GenerateCall | None = None

    def __enter__(self) -> GenerateCall:
        self.outer = _current.get()
        self._token = _current.set(self)
        return self

    def __exit__(self, *exception) -> None:
        _current.reset(self._token)

    @classmethod
    def of(cls, model: PreTrainedModel) -> GenerateCall | None:
        """Return the innermost call of `model` in this thread, or None."""
        call = _current.get()
        while call is not None and call.model is not model:
            call = call.outer
        return call

    def reached(self) -> None:
        """Note that transformers prepares the cache of this call, and of those of the same model around it."""
        call = self
        while call is not None:
            call.prepared |= call.model is self.model
            call = call.outer

    def use(self, cache: VecInferCache) -> None:
        """Take `cache` as the one that this call must fill."""
        if hasattr(cache, "bind"):
            cache.bind(self.model)
        self.cache, self.past_length = cache, _length(cache)

    def check_output(self, output: ModelOutput) -> None:
        """Raise UnsupportedCallError if a forward pass returned another cache than it was given."""
        found = returned_cache(output) if isinstance(output, ModelOutput) else None
        if self.cache is not None and found is not None and not isinstance(found, VecInferCache):
            raise UnsupportedCallError(
                f"{type(self.model).__name__} replaced the VecInfer cache by a {type(found).__name__} in this call, "
                f"so codes were not used. {self._remedy()}"
            )

    def check_used(self) -> None:
        """Raise UnsupportedCallError if the call ended without codes although they were asked for."""
        if self.cache is None and not self.prepared:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} prepares the cache of a generate call by itself, so codes were not "
                f"used. {self._remedy()}"
            )
        if self.cache is not None and self.cache.quantized_layers and _length(self.cache) <= self.past_length:
            raise UnsupportedCallError(
                f"{type(self.model).__name__} stored no token of this call in the VecInfer cache, so codes were not "
                f"used. {self._remedy()}"
            )

    def _remedy(self) -> str:
        if enabled_state(self.model) is not None:
            return 'Use the default cache: generate(cache_implementation="dynamic"), or vecinfer_hf.disable(model).'
        return "Use the default cache for this call."


def _length(cache: VecInferCache) -> int:
    layers = cache.quantized_layers
    return int(layers[0].get_seq_length()) if layers else 0


def wrap_generate(original: Callable) -> Callable:
    """Wrap `GenerationMixin.generate`: switch the attention while it runs, and check what was used."""

    @functools.wraps(original)
    def generate(self, inputs=None, generation_config=None, *args, **kwargs):
        request = None
        if not _drafts_with_first_layers(self, generation_config):
            request = requested(self, kwargs, generation_config)
        given = next((value for value in kwargs.values() if isinstance(value, VecInferCache)), None)
        needs_vecinfer = request is not None or given is not None
        needs_vecinfer &= given_value("use_cache", self, kwargs, generation_config) is not False
        if needs_vecinfer:
            check_supported(self)
        with attention_of_call(self, needs_vecinfer), GenerateCall(self, request) as call:
            call.early_exit = given_value("assistant_early_exit", self, kwargs, generation_config) is not None
            call.in_chunks = given_value("prefill_chunk_size", self, kwargs, generation_config) is not None
            if given is not None:
                call.use(given)
            output = original(self, inputs, generation_config, *args, **kwargs)
            if needs_vecinfer:
                call.check_used()
            return output

    return generate


def _drafts_with_first_layers(model: PreTrainedModel, generation_config: GenerationConfig | None) -> bool:
    """Whether this call drafts for one of the same model, with `assistant_early_exit`: its layers have no codebook."""
    outer = GenerateCall.of(model)
    return outer is not None and outer.early_exit and bool(getattr(generation_config, "is_assistant", None))


def wrap_prepare_cache(original: Callable) -> Callable:
    """Wrap `GenerationMixin._prepare_cache_for_generation`: make the cache that the call asks for."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs):
        call = GenerateCall.of(self) or GenerateCall(self, requested(self, {}, generation_config))
        given, request = model_kwargs.get(CACHE_ARGUMENT), call.request
        if generation_config.use_cache is not False and (request is not None or isinstance(given, VecInferCache)):
            _check_attention(self)
        call.reached()
        if isinstance(given, VecInferCache) and given is not call.cache:
            call.use(given)
        if request is None or generation_config.use_cache is False:
            return original(self, generation_config, model_kwargs, *args, **kwargs)
        if given is not None and generation_config.cache_implementation == NAME:
            # Two caches were asked for; transformers' own error says so.
            return original(self, generation_config, model_kwargs, *args, **kwargs)
        # `generation_config` is generate's own copy; from here on the request is carried by the cache object.
        generation_config.cache_implementation = generation_config.cache_config = None
        if given is None:
            arguments = signature.bind(self, generation_config, model_kwargs, *args, **kwargs).arguments
            call.use(_make_cache(self, request, **{name: arguments[name] for name in _SIZES}))
            model_kwargs[CACHE_ARGUMENT] = call.cache
        return original(self, generation_config, model_kwargs, *args, **kwargs)

    return prepare_cache_for_generation


_SIZES = ("generation_config", "batch_size", "max_cache_length")


def _check_attention(model: PreTrainedModel) -> None:
    """Raise unless the attention of `model` is "vecinfer", as it is within transformers' own `generate`."""
    if not has_vecinfer_attention(model):
        raise UnsupportedCallError(
            f"This call cannot switch the attention of {type(model).__name__} to codes (it is "
            f'"{own_attention(model)}"). Call vecinfer_hf.enable(model) first, and leave out use_cache=False.'
        )


def _make_cache(
    model: PreTrainedModel,
    request: Request,
    generation_config: GenerationConfig,
    batch_size: int,
    max_cache_length: int,
) -> VecInferCache:
    """Return a new cache for a call of `batch_size` rows of at most `max_cache_length` tokens."""
    check_supported(model)
    config = request.config
    if config.static:
        if generation_config.prefill_chunk_size == 1:
            raise UnsupportedCallError(
                "prefill_chunk_size=1 cannot be told from decoding with a static cache; use at least 2."
            )
        config = replace(config, max_cache_len=_static_length(model, config, generation_config, max_cache_length))
    options = config.options()
    options.pop("codebook", None)
    cache = VecInferCache(model, request.codebook or config, **options)
    if config.static and generation_config.prefill_chunk_size is not None:
        # A chunked prefill may be compiled, and buffers allocated inside the graph would have no fixed address.
        shape = model._get_static_cache_init_shape()
        if shape is not None:
            cache.early_initialization(batch_size, *shape, model.dtype, computing_device(model))
    return cache


def _static_length(
    model: PreTrainedModel, config: VecInferConfig, generation_config: GenerationConfig, max_cache_length: int
) -> int:
    """Return the tokens this call needs, but never less than an earlier call: a new size is compiled again."""
    # Prompt lookup guesses on past the end of the text, and its guesses are in the cache until they are refused.
    needed = max_cache_length + (generation_config.prompt_lookup_num_tokens or 0)
    # transformers keeps the size of its static caches under the same name.
    size = max(needed, config.max_cache_len or 0, getattr(model, "_previous_max_cache_length", -1))
    model._previous_max_cache_length = size
    return size


def wrap_update_model_kwargs(original: Callable) -> Callable:
    """Wrap `GenerationMixin._update_model_kwargs_for_generation`: check the cache that a forward pass returned."""

    @functools.wraps(original)
    def update_model_kwargs_for_generation(self, outputs, *args, **kwargs):
        call = GenerateCall.of(self)
        if call is not None:
            call.check_output(outputs)
        return original(self, outputs, *args, **kwargs)

    return update_model_kwargs_for_generation


def wrap_compiled_call(original: Callable) -> Callable:
    """Wrap `PreTrainedModel.get_compiled_call`: decode steps over codes have their own compiled call."""

    @functools.wraps(original)
    def get_compiled_call(self, compile_config):
        call = GenerateCall.of(self)
        if compile_config is None and call is not None and has_vecinfer_attention(self) and records(self, call.cache):
            return RecordedDecode(self)
        fallback = original(self, compile_config)
        if not has_vecinfer_attention(self):
            return fallback
        return decode_call(self, compile_config, fallback)

    return get_compiled_call


def wrap_compile_criteria(original: Callable) -> Callable:
    """Wrap `GenerationMixin._valid_auto_compile_criteria`: decode steps over a growing cache have their own call, too.

    A generation config with `disable_compile=True` leaves them to the model.
    """

    @functools.wraps(original)
    def valid_auto_compile_criteria(self, model_kwargs, generation_config):
        if original(self, model_kwargs, generation_config):
            return True
        call = GenerateCall.of(self)
        mine = call is not None and call.cache is not None and call.cache is model_kwargs.get(CACHE_ARGUMENT)
        wanted = mine and not generation_config.disable_compile and generation_config.compile_config is None
        return wanted and has_vecinfer_attention(self) and records(self, call.cache)

    return valid_auto_compile_criteria
