# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Continuous batching on codes: `model.generate_batch`, its manager and transformers' server, for a model that asks.

Owns the versions of transformers that this is for, and the wrapper that gives such a model its own manager. Models
that do not ask get transformers' manager; nothing of transformers is changed for them.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable

import transformers
from transformers import PreTrainedModel
from transformers.utils import logging

from ..errors import ConfigError, UnsupportedCallError
from ..model_info import check_supported
from .request import requested
from .resolve import resolve


logger = logging.get_logger(__name__)
VERSION = transformers.__version__
TESTED = "5.24"
"""The minor version of transformers whose continuous batching this is written for."""
CACHED = "_cached_continuous_batching_manager"
"""Where transformers keeps the manager of a model between sessions."""
_NAMES = {
    "cache": {
        "PagedAttentionCache.update": ("self", "key_states", "value_states", "layer_idx", "kwargs"),
        "PagedAttentionMemoryHandler.infer_max_batch_tokens_and_num_sectors": ("self",),
        "group_layers_by_attn_type": ("config",),
    },
    "cache_allocators.full_attention": {
        "FullAttentionCacheAllocator._compute_blocks_needed": (
            "self",
            "allocated_blocks",
            "past_length",
            "query_length",
        ),
    },
    "cache_allocators.cache_allocator": {
        "compute_block_hash": ("parent_hash", "tokens"),
        "CacheAllocator.fork_blocks": ("self", "source_request_id", "dest_request_id", "past_length"),
        "CacheAllocator.mark_complete_blocks": ("self", "request_id", "token_ids", "new_new_blocks"),
    },
    "continuous_api": {
        "ContinuousBatchingManager._create_batch_processor": ("self",),
        "ContinuousBatchingManager.switch_to_cb_friendly_attn": ("self", "model", "auto_switch_to_flash"),
    },
    "offloading_manager": {"OffloadingManager.offload_requests": ("self",)},
}
"""What the files named paged_*, page_* and offload.py rely on: module, name, parameters."""


def why_unsupported() -> str | None:
    """Return why this transformers cannot run continuous batching on codes, or None."""
    if not VERSION.startswith(f"{TESTED}."):
        return f"transformers {VERSION} is installed; continuous batching on codes is tested with {TESTED} only"
    for module, names in _NAMES.items():
        for name, parameters in names.items():
            try:
                found: object = importlib.import_module(f"transformers.generation.continuous_batching.{module}")
                for part in name.split("."):
                    found = getattr(found, part)
                taken = tuple(inspect.signature(found).parameters)
            except (ImportError, AttributeError):
                return f"transformers {VERSION} has no {module}.{name}"
            if taken[: len(parameters)] != parameters:
                return f"{module}.{name} of transformers {VERSION} takes {taken}, not {parameters}"
    return None


def wrap_init_continuous_batching(original: Callable) -> Callable:
    """Wrap `GenerationMixin.init_continuous_batching`: a model that is to use codes gets a manager that does."""

    @functools.wraps(original)
    def init_continuous_batching(
        self, generation_config=None, continuous_batching_config=None, workload_hints=None, **kwargs
    ):
        request = requested(self, {}, generation_config)
        kept = getattr(self, CACHED, None)
        if request is None:
            if _holds_codes(kept):
                forget_manager(self)
            return original(self, generation_config, continuous_batching_config, workload_hints, **kwargs)
        reason = why_unsupported()
        if reason is not None:
            raise UnsupportedCallError(
                f"{reason}. Install transformers {TESTED}, use generate, or the default cache "
                "(vecinfer_hf.disable(model))."
            )
        check_supported(self)
        codebook, config = resolve(self, request.codebook or request.config, **_options(request))
        if kept is not None and not _holds_codes(kept):
            raise UnsupportedCallError(
                "This model keeps a continuous-batching manager with the default cache; call "
                "model.destroy_cached_continuous_batching_manager() before it can use codes."
            )
        if kept is not None:
            if kept.codebook is codebook and kept.options == config:
                kept.switch_to_cb_friendly_attn(self)
                return kept
            forget_manager(self)
        from .paged_manager import VecInferManager

        generation_config = self.generation_config if generation_config is None else generation_config
        if generation_config.eos_token_id is None:
            logger.warning_once("vecinfer: the generation config has no eos_token_id; requests end by length.")
            generation_config.eos_token_id = -1
        _check_generation_config(generation_config)
        manager = VecInferManager(
            self, generation_config, continuous_batching_config, workload_hints, codebook, config
        )
        logger.warning(
            f"vecinfer: continuous batching with codes, {codebook.bits_per_element:g} bits per element, pages of "
            f"{manager.layout.page_tokens} tokens ({manager.layout.bytes_per_block:,} bytes), "
            f"{manager.layout.rule.exact_tokens} exact tokens and {manager.layout.tail_bytes:,} bytes per request."
        )
        return manager

    return init_continuous_batching


def _options(request) -> dict:
    options = request.config.options()
    options.pop("codebook", None)
    return options if request.codebook is not None else {}


def _check_generation_config(generation_config) -> None:
    """Raise ConfigError for what continuous batching would ignore."""
    if (getattr(generation_config, "num_beams", None) or 1) > 1:
        raise ConfigError(
            f"num_beams is {generation_config.num_beams}, but continuous batching has no beam search; use generate."
        )


def _holds_codes(manager: object) -> bool:
    return manager is not None and type(manager).__name__ == "VecInferManager"


def forget_manager(model: PreTrainedModel) -> None:
    """Destroy the manager of codes that `model` keeps between sessions, if there is one."""
    if _holds_codes(getattr(model, CACHED, None)):
        model.destroy_cached_continuous_batching_manager()
