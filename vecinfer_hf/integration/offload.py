# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Requests that transformers moves to the CPU when memory is short: their pages go, their exact tokens are recomputed.

The page rule makes that exact: tokens behind the last full section depend on the codes before it alone.
"""

from __future__ import annotations

from typing import Any


def roll_back_to_pages(processor: Any) -> None:
    """Wrap `offload_requests` of a batch processor: a request that was moved goes on from its last full section.

    Args:
        processor: a ContinuousBatchProcessor whose cache is a VecInferPagedCache.
    """
    manager, cache = processor.offloading_manager, processor.cache
    if getattr(manager.offload_requests, "rolls_back", False):
        return
    original, size = manager.offload_requests, cache.layout.rule.share_tokens

    def offload_requests() -> bool:
        before = {name for name, state in manager.scheduler.waiting_requests.items() if state.is_cpu_offloaded}
        done = original()
        for name, state in manager.scheduler.waiting_requests.items():
            if state.is_cpu_offloaded and name not in before:
                tokens = state.initial_tokens + state.generated_tokens
                state.position_offset -= state.position_offset % size
                state.remaining_prefill_tokens = tokens[state.position_offset :]
        return done

    offload_requests.rolls_back = True
    manager.offload_requests = offload_requests
