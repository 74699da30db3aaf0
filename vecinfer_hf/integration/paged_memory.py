# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""PagedMemory: how much memory pages of codes and exact tokens of running requests get.

Needs transformers 5.24 (continuous_batching.py checks that).
"""

from __future__ import annotations

from typing import Any

from transformers.generation.continuous_batching.cache import PagedAttentionMemoryHandler
from transformers.utils import logging

from ..cache.page_layout import PageLayout


logger = logging.get_logger(__name__)
TAIL_SHARE = 0.25
"""Share of the cache's memory that exact tokens of running requests may take where nothing else limits them."""


class PagedMemory(PagedAttentionMemoryHandler):
    """transformers' sizing, without the masks and the read-back of keys that codes do not need, and with slots."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_attention_masks = 0
        self.kv_heads_at_peak = 2 * self.num_key_value_heads
        self.slot_bytes = 0

    @property
    def fixed_overhead_bytes(self) -> int:
        return super().fixed_overhead_bytes + self.slot_bytes

    @property
    def bytes_per_cache_token(self) -> int:
        # Read indices; keys and values are not read back.
        return self.io_multiplier * self.num_groups * 8

    def choose_slots(self, layout: PageLayout) -> int:
        """Return how many requests can be under way, and count their exact tokens from now on."""
        slots = self.cb_config.max_requests_per_batch or 1
        blocks = self.cb_config.num_blocks
        room = int(TAIL_SHARE * self.available_memory) // layout.tail_bytes
        if blocks is not None:
            room = min(room, blocks // (layout.header_blocks + 1))
        if room < slots:
            logger.info(f"vecinfer: at most {max(room, 1)} of {slots} requests are under way at once.")
        slots = max(min(slots, room), 1)
        self.slot_bytes = slots * layout.tail_bytes
        return slots
