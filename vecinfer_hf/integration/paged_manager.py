# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""VecInferManager: transformers' manager of continuous batching, for a model that is to use codes.

Owns what differs from transformers': the attention, the cache, the refusal of options that codes do not have, and the
check of a request before it is queued. Needs transformers 5.24 (continuous_batching.py checks that).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
from transformers.generation.continuous_batching.requests import RequestState
from transformers.utils import logging

from ..cache.online_codebook import OnlineCodebook
from ..cache.page_layout import SHARE_TOKENS, page_layout
from ..codebook.codebook import Codebook
from ..config import VecInferConfig
from ..errors import ConfigError, UnsupportedCallError
from .attention_switch import NAME, use_vecinfer_attention
from .offload import roll_back_to_pages
from .paged_cache import VecInferPagedCache
from .saved_pages import load_pages, save_pages


logger = logging.get_logger(__name__)
PREFIXES: list[Path] = []
"""Files of pages that every new cache of this process begins with; `vecinfer serve --prefix` sets them."""
SECONDS_BETWEEN_LINES = 10.0
"""Seconds between two lines of the log that tell the pages in use."""
PAGE_TOKENS = 64
"""Tokens of a page where the user gives no ContinuousBatchingConfig."""


class VecInferManager(ContinuousBatchingManager):
    """A manager whose full-attention layers hold codes in pages.

    Args:
        model: the model.
        generation_config: see transformers.
        continuous_batching_config: see transformers; None for one with pages of 64 tokens.
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
        self.codebook, self.options, self._told = codebook, options, 0.0
        made = codebook.config
        sinks = made.sink_length if options.sink_length is None else options.sink_length
        window = made.residual_length if options.residual_length is None else options.residual_length
        self.layout = page_layout(codebook, given.page_size, sinks, model.dtype, window, SHARE_TOKENS)
        self.sink_choice = options.sink_choice or made.sink_choice
        # Without a block table, about which transformers would warn.
        without_table = copy.copy(given)
        without_table.max_blocks_per_request = 0
        super().__init__(model, generation_config, without_table, workload_hints)
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
        known = self.batch_processor is not None
        processor = _with_names(ContinuousBatchingManager._create_batch_processor, PagedAttentionCache=cache)(self)
        if not known:
            roll_back_to_pages(processor)
            self._check_before_waiting(processor)
            for path in PREFIXES:
                tokens = load_pages(processor.cache, self.codebook, path)
                logger.info(f"vecinfer: {tokens} tokens of {path} are ready to be shared")
        return processor

    def _check_before_waiting(self, processor: Any) -> None:
        """Let a request that is too long fail alone: in transformers it would end the generation of all."""
        scheduler = processor.scheduler
        add_waiting_request = scheduler.add_waiting_request

        def add_checked_request(state: RequestState) -> None:
            # A request without a limit gets that of the memory.
            room = processor.cache.largest_request() - len(state.initial_tokens) + 1
            if state.max_new_tokens is None:
                state.max_new_tokens = state._new_tokens_limit = max(room, 1)
            self._check_length(processor.cache, len(state.initial_tokens), state.max_new_tokens)
            if len(state.initial_tokens) == 1:
                # transformers forks before the last token, which would be a batch of no token: one request for each.
                children, state.num_children = state.num_children, 0
                for number in range(children):
                    add_waiting_request(state.fork(f"{state.request_id}__child#{number}"))
            add_waiting_request(state)

        scheduler.add_waiting_request = add_checked_request

    def _check_length(self, cache: VecInferPagedCache, tokens: int, new_tokens: int | None) -> None:
        """Raise UnsupportedCallError if a request could not be held even alone."""
        room = cache.largest_request()
        if tokens + (new_tokens or 1) - 1 > room:
            raise UnsupportedCallError(
                f"A request of {tokens} tokens with {new_tokens or 1} new ones does not fit: the cache has "
                f"{cache.num_blocks} pages of {self.layout.page_tokens} tokens, room for {room} tokens of one "
                "request. Shorten it, or raise num_blocks or max_memory_percent of the ContinuousBatchingConfig."
            )

    @property
    def cache(self) -> VecInferPagedCache | None:
        """The cache, once it is made."""
        return None if self.batch_processor is None else self.batch_processor.cache

    def save_prefix(self, tokens: list[int], path: str | Path) -> int:
        """Write the pages of a text that the cache knows to a file; returns the tokens that they hold.

        Args:
            tokens: the text; only whole sections of it are written (`layout.rule.share_tokens` tokens each).
            path: the file.

        Raises:
            UnsupportedCallError: if the cache does not know a whole section of the text.
            SavedCacheError: if the file cannot be written.
        """
        with self._cache_at_rest() as cache:
            return save_pages(cache, self.codebook, list(tokens), path)

    def load_prefix(self, path: str | Path) -> int:
        """Make the pages of a file known, so that requests that begin with its text share them; returns its tokens.

        Raises:
            SavedCacheError: for a damaged file, or one of another codebook, model, dtype or page size.
            UnsupportedCallError: if sharing is off, or there is no room.
        """
        with self._cache_at_rest() as cache:
            return load_pages(cache, self.codebook, path)

    @contextmanager
    def _cache_at_rest(self) -> Iterator[VecInferPagedCache]:
        """Give the cache while no batch runs; it is made if there is none."""
        if self.is_running():
            with self.pause():
                yield self.cache
            return
        if self.batch_processor is None:
            self.batch_processor = self._create_batch_processor()
        yield self.cache

    def state(self) -> dict[str, Any]:
        """Return how many requests are under way, and the pages of their cache by use; empty before the first one."""
        cache = self.cache
        if cache is None:
            return {}
        return {
            "page_tokens": self.layout.page_tokens,
            "page_bytes": self.layout.bytes_per_block,
            "pages": cache.codes.count_pages(),
            "requests": len(cache.codes.slots),
            "most_requests": cache.num_slots,
            "cache_bytes": cache.nbytes,
        }

    def _generation_step(self) -> None:
        super()._generation_step()
        now = time.monotonic()
        if now - self._told > SECONDS_BETWEEN_LINES:
            self._told = now
            pages = ", ".join(f"{count} {use}" for use, count in self.cache.codes.count_pages().items())
            logger.info(f"vecinfer: pages of codes: {pages}; {len(self.cache.codes.slots)} requests")

    def add_requests(self, *args: Any, **kwargs: Any) -> list[str]:
        """Queue requests; see transformers. One that is too long gets an answer with an error."""
        token = _fail_later.set(True)
        try:
            return super().add_requests(*args, **kwargs)
        finally:
            _fail_later.reset(token)

    def add_request(self, input_ids: list[int], request_id=None, max_new_tokens=None, *args: Any, **kwargs: Any):
        """Queue a request; see transformers.

        Raises:
            UnsupportedCallError: if the cache could not hold it even alone; other requests go on.
        """
        if not len(input_ids):
            raise UnsupportedCallError("A request without tokens cannot be answered; give at least one.")
        wanted = self.generation_config.max_new_tokens if max_new_tokens is None else max_new_tokens
        if self.cache is not None and not _fail_later.get():
            self._check_length(self.cache, len(input_ids), wanted)
        return super().add_request(input_ids, request_id, max_new_tokens, *args, **kwargs)


_fail_later: ContextVar[bool] = ContextVar("vecinfer_fail_later", default=False)
"""Whether requests come in one call, which transformers would end at the first error."""


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
    if given.cpu_offload_space != 0 and getattr(model.config.get_text_config(), "sliding_window", None):
        raise UnsupportedCallError(
            f"cpu_offload_space={given.cpu_offload_space!r} is not supported for a model with sliding-window layers, "
            "whose pages cannot go back to the end of a page of codes; leave it out."
        )
    if getattr(model.config.get_text_config(), "num_kv_shared_layers", 0):
        raise UnsupportedCallError(
            "Layers that read the keys of other layers are not supported in continuous batching over codes; use "
            "generate."
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
