# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""VecInferManager: transformers' manager of continuous batching, for a model that is to use codes.

Owns what differs from transformers': the attention, the cache, the refusal of options that codes do not have, and the
check of a request before it is queued. Needs transformers 5.24 (continuous_batching.py checks that).
"""

from __future__ import annotations

from functools import partial
from types import FunctionType
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager

from ..cache.online_codebook import OnlineCodebook
from ..cache.page_layout import page_layout
from ..codebook.codebook import Codebook
from ..config import VecInferConfig
from ..errors import ConfigError, UnsupportedCallError
from .attention_switch import NAME, use_vecinfer_attention
from .offload import roll_back_to_pages
from .paged_cache import VecInferPagedCache


PAGE_TOKENS = 128
"""Tokens of a page where the user gives no ContinuousBatchingConfig."""


class VecInferManager(ContinuousBatchingManager):
    """A manager whose full-attention layers hold codes in pages.

    Args:
        model: the model.
        generation_config: see transformers.
        continuous_batching_config: see transformers; None for one with pages of 128 tokens.
        workload_hints: see transformers.
        codebook: the model's codebook.
        options: how its cache runs.

    Raises:
        UnsupportedCallError: for an option that codes do not have.
        ConfigError: for a page size that is no multiple of a tile.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        generation_config: GenerationConfig,
        continuous_batching_config: ContinuousBatchingConfig | None,
        workload_hints: Any,
        codebook: Codebook,
        options: VecInferConfig,
    ):
        given = continuous_batching_config or ContinuousBatchingConfig(page_size=PAGE_TOKENS)
        _check_options(given, codebook, model)
        self.codebook, self.options = codebook, options
        made = codebook.config
        sinks = made.sink_length if options.sink_length is None else options.sink_length
        self.layout = page_layout(codebook, given.page_size, sinks, model.dtype)
        self.sink_choice = options.sink_choice or made.sink_choice
        super().__init__(model, generation_config, given, workload_hints)
        resolved = self.continuous_batching_config
        # transformers decides these for attention with masks; a batch of codes has none.
        resolved.max_blocks_per_request = given.max_blocks_per_request or 0
        resolved.use_cuda_graph, resolved.use_async_batching = (False, False), False

    def switch_to_cb_friendly_attn(self, model: PreTrainedModel, auto_switch_to_flash: bool = True) -> None:
        """Switch the attention to "vecinfer"; `stop` brings back what was there."""
        before = use_vecinfer_attention(model)
        if before != NAME:
            self._original_attn_impl = before

    def _create_batch_processor(self):
        cache = partial(
            VecInferPagedCache, self.codebook, self.layout, self.sink_choice, self.options.ops_backend or "auto"
        )
        processor = _with_names(ContinuousBatchingManager._create_batch_processor, PagedAttentionCache=cache)(self)
        roll_back_to_pages(processor)
        return processor

    @property
    def cache(self) -> VecInferPagedCache | None:
        """The cache, once it is made."""
        return None if self.batch_processor is None else self.batch_processor.cache

    def add_request(self, input_ids: list[int], *args: Any, max_new_tokens: int | None = None, **kwargs: Any):
        """Queue a request; see transformers.

        Raises:
            UnsupportedCallError: if the cache could not hold it even alone; other requests go on.
        """
        if not len(input_ids):
            raise UnsupportedCallError("A request without tokens cannot be answered; give at least one.")
        cache, wanted = self.cache, max_new_tokens
        if len(args) > 1:
            wanted = args[1]
        wanted = self.generation_config.max_new_tokens if wanted is None else wanted
        if cache is not None:
            room, needed = cache.largest_request(), len(input_ids) + (wanted or 1) - 1
            if needed > room:
                raise UnsupportedCallError(
                    f"A request of {len(input_ids)} tokens with {wanted or 1} new ones does not fit: the cache has "
                    f"{cache.num_blocks} pages of {self.layout.page_tokens} tokens, room for {room} tokens of one "
                    "request. Shorten it, or raise num_blocks or max_memory_percent of the ContinuousBatchingConfig."
                )
        return super().add_request(input_ids, *args, max_new_tokens=max_new_tokens, **kwargs)


def _with_names(function: FunctionType, **names: Any) -> FunctionType:
    """Return `function` with other values for some names of its module; the module stays as it is."""
    return FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def _check_options(given: ContinuousBatchingConfig, codebook: Codebook, model: PreTrainedModel) -> None:
    """Raise UnsupportedCallError for what continuous batching over codes does not have."""
    refused = {
        "use_cuda_graph": any(given.cuda_graph_booleans) if given.use_cuda_graph is not None else False,
        "use_async_batching": bool(given.use_async_batching),
        "varlen_compile_config": given.varlen_compile_config is not None,
        "decode_compile_config": given.decode_compile_config is not None,
        "default_compile_level": given.default_compile_level > 0,
    }
    for name, asked in refused.items():
        if asked:
            raise UnsupportedCallError(
                f"{name}={getattr(given, name)!r} of the ContinuousBatchingConfig is not supported with a cache of "
                "codes; leave it out, or use the default cache (vecinfer_hf.disable(model))."
            )
    if isinstance(codebook, OnlineCodebook):
        raise ConfigError(
            'codebook="online" needs a cache of one text; continuous batching needs a codebook that is made: '
            "`vecinfer calibrate`."
        )
    if getattr(model, "_device_mesh", None) is not None:
        raise UnsupportedCallError(
            "Tensor parallelism is not supported with continuous batching over codes; load the model on one device, "
            "or use the default cache (vecinfer_hf.disable(model))."
        )
