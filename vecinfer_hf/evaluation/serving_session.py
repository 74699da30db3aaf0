# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Session: transformers' continuous batching driven step by step in this thread, for measurements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from .speed import release


class Session:
    """A batch processor of transformers' continuous batching, driven in this thread.

    Args:
        model: the model; enabled for codes.
        config: the options.
    """

    def __init__(self, model: PreTrainedModel, config: ContinuousBatchingConfig):
        self.model = model
        self.generation = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=1 << 20)
        self.manager = model.init_continuous_batching(self.generation, config)
        self.processor = self.manager.batch_processor = self.manager._create_batch_processor()
        self.cache = self.processor.cache

    def close(self) -> None:
        """Free the cache, and bring back the model's attention."""
        if self.manager._original_attn_impl is not None:
            self.model.set_attn_implementation(self.manager._original_attn_impl)
        self.manager.batch_processor = None
        self.manager = self.processor = self.cache = None
        release()

    def fill(self, requests: int, context: int, more: int) -> int:
        """Let up to `requests` requests hold `context` tokens each, with room for `more`; returns how many fit."""
        from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

        for number in range(requests):
            state = RequestState(f"filled {number}", [1] * context, max_new_tokens=1 << 20, eos_token_id=-1)
            state._status = RequestStatus.DECODING
            state.position_offset, state.remaining_prefill_tokens = context, []
            state.generated_tokens, state.tokens_to_process = [2], [2]
            if not self.cache.can_store_request_tokens(state, more):
                self.cache.free_blocks(state.request_id)
                return number
            self.processor.scheduler.active_requests[state.request_id] = state
        return requests

    def random_states(self) -> None:
        """Fill the memory of the cache with random states: any byte is a code, keys and values are normal."""
        memory = self.cache.cache_tensor
        codes = hasattr(self.cache, "codes")
        flat = memory.view(-1) if codes else memory.view(-1).view(self.cache.dtype)
        for part in flat.split(1 << 28):
            part.random_(0, 256) if codes else part.normal_()
        if codes:
            self.cache.codes.without_sinks.clear()
            for layer in self.cache.layers.values():
                layer.storage.exact_keys.normal_()
                layer.storage.exact_values.normal_()

    @torch.inference_mode()
    def step(self) -> bool:
        """Run one step; False if there was nothing to do."""
        if not self.processor.prepare_next_batch():
            return False
        self.processor._generation_step(self.model)
        self.processor.update_batch()
        return True

    def add(self, name: str, prompt: list[int], new_tokens: int) -> None:
        """Queue a request."""
        self.manager.add_request(prompt, name, new_tokens, streaming=True)

    def outputs(self) -> Iterator[Any]:
        """Yield what has been generated since the last call."""
        queue = self.manager.output_router.output_queue
        while not queue.empty():
            yield queue.get()
