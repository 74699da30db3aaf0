# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""PageAllocator: which blocks and which slot of exact tokens each request of transformers' continuous batching has.

Owns the bookkeeping on the host, in transformers' terms: its blocks are our pages of all layers, its sharing, forks
and copies see bytes. A request's block table begins with the header blocks, which hold the sinks, then page by page.
Needs transformers 5.24 (continuous_batching.py checks that).
"""

from __future__ import annotations

import heapq

import torch
from transformers.generation.continuous_batching.cache_allocators import FullAttentionCacheAllocator
from transformers.generation.continuous_batching.cache_allocators.cache_allocator import compute_block_hash
from transformers.generation.continuous_batching.cache_allocators.cache_pool import CachePool

from ..cache.page_layout import PageLayout
from ..cache.paged_rows import TextBlocks


class PageAllocator(FullAttentionCacheAllocator):
    """The blocks of all full-attention layers.

    Args:
        index: place among the allocators of the cache.
        layer_indices: the layers.
        layout: the sizes of pages.
        allow_block_sharing: whether equal prefixes share blocks.
    """

    def __init__(self, index: int, layer_indices: list[int], layout: PageLayout, allow_block_sharing: bool):
        self.layout = layout
        self.header_blocks = layout.header_blocks
        self.slots: dict[str, int] = {}
        """The slot of exact tokens of each request."""
        self.without_sinks: set[str] = set()
        """Requests that continue pages of others and have not copied the sinks into their slot."""
        self.slot_copies: list[tuple[int, int]] = []
        """Slots to copy for forks, (from, to)."""
        self._before_cache_tensor_init(
            index=index,
            layer_indices=layer_indices,
            tokens_per_page=layout.page_tokens,
            bytes_per_page=layout.bytes_per_block // len(layer_indices),
            allow_block_sharing=allow_block_sharing,
        )

    def register_cache_tensor(
        self, bytes_per_sector: int, non_trash_bytes: int, cache_tensor: torch.Tensor, pool: CachePool
    ) -> None:
        """Take the memory uint8 `[bytes]` that all allocators share."""
        self.bytes_per_sector = bytes_per_sector
        self._copy_view = cache_tensor.view(-1, self.bytes_per_block)
        self._after_cache_tensor_init(non_trash_bytes, bytes_per_sector, cache_tensor, pool)

    def set_slots(self, count: int) -> None:
        """Set the number of requests that can be under way at once."""
        self.free_slots = list(range(count))

    def layer_pool(self, layer_idx: int) -> torch.Tensor:
        """Return one layer's part of every block, uint8 `[blocks, bytes]`."""
        return self._copy_view[:, self.layout.part(layer_idx)]

    def text_blocks(self, request_id: str) -> TextBlocks:
        """Return the blocks of a request."""
        table = self.block_table[request_id]
        return TextBlocks(table[: self.header_blocks], table[self.header_blocks :], self._copy_view.device)

    def count_pages(self) -> dict[str, int]:
        """Return how many blocks are there: all, used by requests, shared by several, kept for reuse, and free."""
        # Copies: another thread may ask while requests come and go.
        used = {block for table in list(self.block_table.values()) for block in list(table)}
        kept = len(self.ledger.cached_blocks)
        return {
            "total": self.num_blocks,
            "used": len(used),
            "shared": len(self.ledger.shared_ref_counts),
            "kept": kept,
            "free": self.num_blocks - len(used) - kept,
        }

    # ---- blocks

    def _compute_blocks_needed(self, allocated_blocks: int, past_length: int, query_length: int) -> int:
        pages = -(-(past_length + query_length) // self.tokens_per_page)
        return max(0, (self.header_blocks + pages if pages else 0) - allocated_blocks)

    def allocate_cache_to_request(self, request_id: str, past_length: int, query_length: int) -> None:
        """Give a request the blocks for its new tokens, and a slot if it has none."""
        super().allocate_cache_to_request(request_id, past_length, query_length)
        self._take_slot(request_id, past_length)

    def _take_slot(self, request_id: str, past_length: int) -> None:
        if request_id in self.slots:
            return
        # The lowest: rows of a decode step are read in the order of slots.
        self.slots[request_id] = heapq.heappop(self.free_slots)
        if past_length >= self.tokens_per_page:
            self.without_sinks.add(request_id)

    def free_blocks(self, request_id: str, no_cache: bool = False) -> None:
        """Give back the blocks and the slot of a request."""
        super().free_blocks(request_id, no_cache)
        slot = self.slots.pop(request_id, None)
        if slot is not None:
            heapq.heappush(self.free_slots, slot)
        self.without_sinks.discard(request_id)

    # ---- sharing

    def count_shareable_blocks(self, source_request_id: str, past_length: int) -> int:
        """Return the blocks that a fork shares: those of full pages, and the header with the first of them."""
        pages = past_length // self.tokens_per_page
        if not self.use_block_sharing or not pages:
            return 0
        return min(self.header_blocks + pages, len(self.block_table[source_request_id]))

    def fork_blocks(
        self, source_request_id: str, dest_request_id: str, past_length: int
    ) -> tuple[list[int], list[int]]:
        """Give a fork its blocks and a slot; returns the (source, destination) blocks to copy."""
        copies = super().fork_blocks(source_request_id, dest_request_id, past_length)
        self._take_slot(dest_request_id, 0)
        if source_request_id in self.without_sinks:
            self.without_sinks.add(dest_request_id)
        self.slot_copies.append((self.slots[source_request_id], self.slots[dest_request_id]))
        return copies

    def match_prefix_blocks(self, prompt_ids: list[int]) -> list[int]:
        """Return the blocks of the longest known prefix of full pages, header first; empty if there is none."""
        matched: list[int] = []
        page_hash = None
        for page in range((len(prompt_ids) - 1) // self.tokens_per_page):
            page_hash = compute_block_hash(page_hash, self._page(prompt_ids, page))
            hashes = [page_hash] if page else [*self._header_hashes(page_hash), page_hash]
            found = [self.ledger.hash_to_block.get(each) for each in hashes]
            if None in found:
                break
            matched += found
        return matched

    def acquire_prefix_blocks(self, request_id: str, prefix_len: int, block_ids: list[int]) -> None:
        """Let a request begin with the blocks of `match_prefix_blocks`, `prefix_len` tokens."""
        blocks = block_ids[: self.header_blocks + prefix_len // self.tokens_per_page]
        self.block_table[request_id] = blocks
        for block in blocks:
            self.ledger.acquire(block)
        self._take_slot(request_id, prefix_len)

    def mark_complete_blocks(self, request_id: str, token_ids: list[int], new_new_blocks: int) -> None:
        """Make the pages that a forward pass filled known for sharing; a page that is known already is given up."""
        table, page_hash = self.block_table[request_id], None
        for page in range(len(table) - self.header_blocks):
            tokens = self._page(token_ids, page)
            place = self.header_blocks + page
            known = self.ledger.block_to_hash.get(table[place])
            if known is None:
                if new_new_blocks == 0 or len(tokens) < self.tokens_per_page:
                    break
                new_new_blocks -= 1
                known = compute_block_hash(page_hash, tokens)
                self._register(table, place, known)
            page_hash = known
            if page == 0:
                for header, header_hash in enumerate(self._header_hashes(page_hash)):
                    if self.ledger.block_to_hash.get(table[header]) is None:
                        self._register(table, header, header_hash)

    def _register(self, table: list[int], place: int, block_hash: int) -> None:
        """Name a block of a request by its content, or adopt the block that has this name."""
        block = table[place]
        other = self.ledger.register_new_hash(block, block_hash)
        if other is not None:
            self.ledger.acquire(other)
            table[place] = other
            if self.ledger.release(block):
                self.pool.free_blocks(self.index, [block])

    def _page(self, token_ids: list[int], page: int) -> list[int]:
        return token_ids[page * self.tokens_per_page : (page + 1) * self.tokens_per_page]

    def _header_hashes(self, page_hash: int) -> list[int]:
        """Return the names of the header blocks of a text by the hash of its first page."""
        return [compute_block_hash(page_hash, [-1 - number]) for number in range(self.header_blocks)]

    # ---- what a forward pass of the default cache reads from the device; ours has the rows of the batch

    def get_read_indices(self, request_id: str, past_length: int, query_length: int) -> list[int]:
        """Return nothing: pages are read by their blocks."""
        return []

    def get_write_indices(self, request_id: str, past_length: int, query_length: int) -> list[int]:
        """Return nothing: tokens are stored by slot and block."""
        return []

    def fill_block_table(
        self, request_id: str, past_length: int, query_length: int, block_table: torch.Tensor
    ) -> None:
        """Leave the row of the device's block table as it is."""
