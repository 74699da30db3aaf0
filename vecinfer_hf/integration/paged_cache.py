# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""VecInferPagedCache: the cache of transformers' continuous batching, with codes in the pages of full attention.

Owns how memory is divided, and what a model's layers get for each batch. page_allocator.py owns blocks and slots.
Needs transformers 5.24 (continuous_batching.py checks that).
"""

from __future__ import annotations

from math import lcm
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, PreTrainedConfig
from transformers.generation.continuous_batching.cache import (
    PagedAttentionCache,
    group_layers_by_attn_type,
)
from transformers.generation.continuous_batching.cache_allocators import SlidingAttentionCacheAllocator
from transformers.generation.continuous_batching.cache_allocators.cache_pool import CachePool
from transformers.generation.continuous_batching.requests import RequestState
from transformers.generation.continuous_batching.utils import find_num_key_value_heads

from ..cache.page_layout import PageLayout
from ..cache.paged import PagedStorage
from ..cache.paged_layer import PagedLayer
from ..cache.paged_rows import Batch, BatchRow
from ..codebook.codebook import Codebook
from ..errors import ConfigError
from ..ops.backend import select_backend
from .page_allocator import PageAllocator
from .paged_memory import PagedMemory
from .sliding_rows import SlidingRows


FULL, SLIDING = "full_attention", "sliding_attention"
_BATCH_KEYWORDS = (
    "block_table",
    "cu_seq_lens_k",
    "cu_seq_lens_q",
    "logits_indices",
    "logits_processor_args",
    "max_length_k",
    "max_length_q",
    "read_index",
    "write_index",
)
"""Keywords of a batch that reach every layer and that the layers of this cache do not need."""


class VecInferPagedCache(PagedAttentionCache):
    """Pages of codes for full-attention layers, transformers' own pages for sliding ones.

    Args:
        codebook: the model's codebook.
        layout: the sizes of pages.
        sink_choice: see `VecInferConfig.sink_choice`.
        ops_backend: see `VecInferConfig.ops_backend`.
        config, continuous_batching_config, device, distributed_helper, dtype, model_supports_logits_to_keep: what
            transformers gives its own cache.

    Raises:
        ConfigError: if the memory has no room for one page and one request's exact tokens.
    """

    def __init__(
        self,
        codebook: Codebook,
        layout: PageLayout,
        sink_choice: str,
        ops_backend: str,
        *,
        config: PreTrainedConfig,
        continuous_batching_config: ContinuousBatchingConfig,
        device: torch.device | str,
        distributed_helper: Any,
        dtype: torch.dtype,
        model_supports_logits_to_keep: bool = False,
    ):
        # Not PagedAttentionCache.__init__: it makes other allocators and divides memory for them.
        self.config, self.dtype, self.device = config, dtype, torch.device(device)
        self.layout = layout
        self.max_blocks_per_request = continuous_batching_config.max_blocks_per_request or 0
        self.cache_allocators: dict[str, Any] = {}
        self.layer_to_allocator: dict[int, Any] = {}
        sharing = continuous_batching_config.allow_block_sharing
        for index, (kind, layers) in enumerate(group_layers_by_attn_type(config).items()):
            if kind == FULL:
                allocator: Any = PageAllocator(index, layers, layout, sharing)
            else:
                allocator = SlidingAttentionCacheAllocator(
                    index=index,
                    config=config,
                    num_key_value_heads=find_num_key_value_heads(config),
                    cache_dtype=dtype,
                    page_size=layout.page_tokens,
                    layer_indices=layers,
                    allow_block_sharing=sharing,
                )
            self.cache_allocators[kind] = allocator
            self.layer_to_allocator |= dict.fromkeys(layers, allocator)
        self.codes: PageAllocator = self.cache_allocators[FULL]
        self._allocate(continuous_batching_config, model_supports_logits_to_keep)
        self.allow_block_sharing = sharing
        self.use_prefix_sharing = all(each.use_block_sharing for each in self.cache_allocators.values())
        self.read_cache_limit = self._infer_read_cache_limit()
        self.max_decode_fast_path_length = self._infer_max_decode_fast_path_length()
        self.max_tokens_read = max(each.tokens_per_page * each.num_blocks for each in self.cache_allocators.values())
        self._make_layers(codebook, sink_choice, ops_backend)
        if self.device.type == "cuda":
            # Batches run on a stream of their own, which does not wait for what was launched here.
            torch.cuda.synchronize(self.device)
        self._prepared: list[tuple[str, int, int]] = []
        self._running: Batch | None = None
        self._taken = True

    def _allocate(self, cb_config: ContinuousBatchingConfig, model_supports_logits_to_keep: bool) -> None:
        """Divide the memory into blocks and slots, and allocate the blocks."""
        blocks = [each.bytes_per_block for each in self.cache_allocators.values()]
        self.bytes_per_sector = lcm(*blocks, 128)
        self.tokens_per_sector = max(
            self.bytes_per_sector // each.bytes_per_block * each.tokens_per_page
            for each in self.cache_allocators.values()
        )
        memory = PagedMemory(
            config=self.config,
            cb_config=cb_config,
            dtype=self.dtype,
            bytes_per_sector=self.bytes_per_sector,
            tokens_per_sector=self.tokens_per_sector,
            bytes_per_block=self.codes.bytes_per_block,
            attn_types=list(self.cache_allocators),
            model_supports_logits_to_keep=model_supports_logits_to_keep,
        )
        self.num_slots = memory.choose_slots(self.layout)
        try:
            self.max_batch_tokens, self.num_sectors = memory.infer_max_batch_tokens_and_num_sectors()
        except (MemoryError, ValueError) as error:
            raise ConfigError(
                f"{memory.available_memory / 2**20:.0f} MiB are available for the cache, which is too little for its "
                f"pages and the exact tokens of {self.num_slots} requests ({self.layout.tail_bytes / 2**20:.1f} MiB "
                f"each): {error}. Lower num_blocks, max_requests_per_batch, max_batch_tokens or page_size of the "
                "ContinuousBatchingConfig."
            ) from error
        self.codes.set_slots(self.num_slots)
        data_bytes = self.num_sectors * self.bytes_per_sector
        # Two more sectors in front, which transformers' sliding layers use for padding.
        self.cache_tensor = torch.zeros(data_bytes + 2 * self.bytes_per_sector, dtype=torch.uint8, device=self.device)
        self.pool = CachePool(self.num_sectors, len(self.cache_allocators))
        for each in self.cache_allocators.values():
            each.register_cache_tensor(self.bytes_per_sector, data_bytes, self.cache_tensor, self.pool)
        self.num_blocks = data_bytes // self.codes.bytes_per_block

    def _make_layers(self, codebook: Codebook, sink_choice: str, ops_backend: str) -> None:
        self.layers: dict[int, PagedLayer | SlidingRows] = {}
        for index, allocator in self.layer_to_allocator.items():
            if allocator is not self.codes:
                self.layers[index] = SlidingRows(index, allocator)
                continue
            shape, formats = codebook.head_shape(index), codebook.formats(index)
            dims = shape.key_head_dim, shape.value_head_dim
            group = self.config.num_attention_heads // shape.num_key_value_heads
            storage = PagedStorage(
                self.codes.layer_pool(index),
                self.layout,
                self.num_slots,
                shape.num_key_value_heads,
                dims,
                formats,
                codebook.layer(index, self.device),
                sink_choice,
                select_backend(ops_backend, self.device, self.dtype, *dims, group, formats),
                self.dtype,
            )
            self.layers[index] = PagedLayer(index, storage)

    @property
    def nbytes(self) -> int:
        """Bytes of pages and exact tokens on the device; the codebook is not counted."""
        exact = sum(layer.storage.nbytes for layer in self.layers.values() if isinstance(layer, PagedLayer))
        return self.cache_tensor.nbytes + exact

    # ---- requests

    def can_store_request_tokens(self, state: RequestState, request_len: int, dry_run: bool = False) -> bool:
        """Return whether a request's next tokens have room, and a slot; takes both unless `dry_run`."""
        if not dry_run and state.request_id not in self.codes.slots and not self.codes.free_slots:
            return False
        return super().can_store_request_tokens(state, request_len, dry_run)

    def largest_request(self) -> int:
        """Return the tokens that one request can have if it is alone."""
        per_sector = {name: each.blocks_per_sector for name, each in self.cache_allocators.items()}
        low, high = 0, self.max_tokens_read
        while low < high:
            middle = (low + high + 1) // 2
            sectors = sum(
                -(-each._compute_blocks_needed(0, 0, middle) // per_sector[name])
                for name, each in self.cache_allocators.items()
            )
            low, high = (middle, high) if sectors <= self.num_sectors else (low, middle - 1)
        return low

    def search_prefix_match(self, request_id: str, prompt_ids: list[int]) -> int:
        """Let a new request begin with known pages; returns their tokens."""
        if not self.use_prefix_sharing or not self.codes.free_slots:
            return 0
        matched = self.codes.match_prefix_blocks(prompt_ids)
        length = (len(matched) - self.codes.header_blocks) * self.codes.tokens_per_page
        length -= length % self.layout.rule.share_tokens
        if len(prompt_ids) == length + 1:
            # A fork leaves the last token unread, and a batch needs one.
            length -= self.layout.rule.share_tokens
        if length <= 0:
            return 0
        self.codes.acquire_prefix_blocks(request_id, length, matched)
        return length

    def prepare_fork_request(
        self, src_state: RequestState, dst_req_ids: list[str], copy_src_and_dst: dict[str, tuple[list[int], list[int]]]
    ) -> list[str]:
        """Fork a request into as many others as have blocks and slots; returns their names."""
        room = len(self.codes.free_slots)
        return super().prepare_fork_request(src_state, dst_req_ids[:room], copy_src_and_dst)

    def perform_cache_copy(self, copy_src_and_dst: dict[str, tuple[list[int], list[int]]]) -> None:
        """Copy the blocks and slots of forks."""
        super().perform_cache_copy(copy_src_and_dst)
        copies, self.codes.slot_copies = self.codes.slot_copies, []
        if not copies:
            return
        for layer in self.layers.values():
            if isinstance(layer, PagedLayer):
                layer.storage.copy_slots(copies)

    def reset(self) -> None:
        """Forget all requests and all pages."""
        super().reset()
        self._taken = True

    # ---- batches

    def extend_read_and_write_indices(
        self, request_id: str, past_length: int, query_length: int, read_index: Any, write_index: Any
    ) -> None:
        """Note a row of the next batch, and fill the indices of sliding layers."""
        self._note(request_id, past_length, query_length)
        super().extend_read_and_write_indices(request_id, past_length, query_length, read_index, write_index)

    def fill_block_table(self, request_id: str, past_length: int, query_length: int, block_table: Any) -> None:
        """Note a row of the next batch."""
        self._note(request_id, past_length, query_length)

    def _note(self, request_id: str, past_length: int, query_length: int) -> None:
        if self._taken:
            self._prepared, self._taken = [], False
        self._prepared.append((request_id, past_length, query_length))

    def _batch(self) -> Batch:
        """Return the batch whose forward pass begins."""
        rows, begin = [], 0
        for request_id, past, count in self._prepared:
            load_sinks = request_id in self.codes.without_sinks
            blocks = self.codes.text_blocks(request_id)
            rows.append(BatchRow(self.codes.slots[request_id], past, count, begin, blocks, load_sinks))
            self.codes.without_sinks.discard(request_id)
            begin += count
        self._taken = True
        return Batch(rows, self.layout, self.device)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, kwargs: dict[str, Any]):
        """Return two handles for new keys `[1, Hkv, T, Dk]` and values `[1, Hkv, T, Dv]` of a batch, for "vecinfer".

        Args:
            key_states: keys of all rows of the batch, one after the other.
            value_states: values likewise.
            layer_idx: the layer.
            kwargs: the keywords of the layer's attention; those that describe the batch are taken out.
        """
        if not self._taken:
            self._running = self._batch()
        layer = self.layers[layer_idx]
        batch = {name: kwargs.pop(name, None) for name in _BATCH_KEYWORDS}
        if isinstance(layer, SlidingRows):
            return layer.update(
                key_states, value_states, self._running.rows, batch["read_index"], batch["write_index"]
            )
        return layer.update(key_states, value_states, self._running)
