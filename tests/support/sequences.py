# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Random sequences of what users do with a cache, in order: a hypothesis state machine that the method model follows.

disturbed_sequences.py adds calls that fail or are refused.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
from functools import cache

import package_adapter as adapter
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from method_hooks import following
from refusal import is_refusal
from tiny_codebooks import random_codebook
from tiny_models import tiny_model

from vecinfer_hf import VecInferCache
from vecinfer_hf.integration.compat import cache_argument


FAMILIES = ("llama", "qwen3", "phi3", "gemma2", "gemma3", "gpt_oss")
_SLIDING = ("gemma2", "gemma3", "gpt_oss")
_ONLY_EAGER = ("gemma2", "gpt_oss")
LONGEST = 130
"""Columns of the longest sequences; static caches have room for as many."""

counts = st.one_of(st.just(1), st.integers(2, 16), st.integers(17, 40))
seeds = st.integers(0, 2**16)
paddings = st.sampled_from(("none", "none", "left", "right", "holes"))


@cache
def model_of(family: str):
    """Return the family's tiny model: three layers, the middle one sliding where the family has such."""
    types = {"layer_types": ["full_attention", "sliding_attention", "full_attention"], "sliding_window": 24}
    return tiny_model(family, num_hidden_layers=3, **(types if family in _SLIDING else {}))


class Sequences(RuleBasedStateMachine):
    """A user with one model and one cache. `ids` and `mask` `[B, n]` are what the cache has been fed."""

    family = "llama"

    def __init__(self):
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.model = model_of(self.family)
        self.follower = self.stack.enter_context(following(self.model))
        self.stack.enter_context(torch.no_grad())
        self.spare = None

    def teardown(self):
        self.stack.close()
        self.model.set_attn_implementation("sdpa" if self.family not in _ONLY_EAGER else "eager")

    @initialize(
        static=st.booleans(),
        batch=st.integers(1, 3),
        residual=st.sampled_from((0, 1, 4, 8, 24)),
        sinks=st.sampled_from((0, 1, 4)),
        choice=st.sampled_from(("small_values", "first")),
        bits=st.sampled_from(((2, 2), (2, 1), (4, 2), (1, "d8b12"))),
        kind=st.sampled_from(("smooth_scale", "matrix")),
        mean=st.booleans(),
        attention=st.sampled_from(("vecinfer", "vecinfer", "vecinfer", "stock")),
    )
    def begin(self, static, batch, residual, sinks, choice, bits, kind, mean, attention):
        codebook = random_codebook(
            self.model.config, *bits, kind=kind, mean=mean, value_kind=kind if kind == "matrix" else None
        )
        self.limit = LONGEST if static else None
        self.cache = VecInferCache(
            self.model.config,
            codebook,
            residual_length=residual,
            sink_length=sinks,
            sink_choice=choice,
            ops_backend="reference",
            **({"static": True, "max_cache_len": LONGEST} if static else {}),
        )
        self.batch = batch
        self.ids = torch.zeros(batch, 0, dtype=torch.long)
        self.mask = torch.zeros(batch, 0, dtype=torch.bool)
        self.attend_with(attention)

    # Helpers.

    @property
    def columns(self) -> int:
        return self.ids.shape[1]

    def attend_with(self, attention: str) -> None:
        self.attention = attention
        stock = "eager" if self.family in _ONLY_EAGER else "sdpa"
        self.model.set_attn_implementation(stock if attention == "stock" else attention)

    def new_columns(self, count: int, padding: str, seed: int, batch: int | None = None):
        """Return random ids and mask `[B, count]`; every row but the last may be padded."""
        generator = torch.Generator().manual_seed(seed)
        batch = self.batch if batch is None else batch
        ids = torch.randint(2, 97, (batch, count), generator=generator)
        mask = torch.ones(batch, count, dtype=torch.bool)
        for row in range(batch - 1 if padding != "none" else 0):
            amount = int(torch.randint(0, count + 1, (), generator=generator))
            if padding == "left":
                mask[row, :amount] = False
            elif padding == "right":
                mask[row, count - amount :] = False
            else:
                mask[row] = torch.rand(count, generator=generator) < 0.7
        return ids.masked_fill(~mask, 0), mask

    def call(self, ids, mask, **arguments):
        """Feed new columns to the model; the cache has them if this returns."""
        whole = torch.cat([self.mask, mask], 1)
        position_ids = (whole.long().cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        arguments = {"position_ids": position_ids, **arguments}
        arguments.setdefault("attention_mask", None if whole.all() and int(ids[0, 0]) % 2 else whole.long())
        return self.model(ids, **arguments, **cache_argument(self.cache))

    def fed(self, ids, mask) -> None:
        self.ids, self.mask = torch.cat([self.ids, ids], 1), torch.cat([self.mask, mask], 1)

    def works_or_refuses(self, operation) -> bool:
        """Run an operation that may be refused; return whether it worked. A refusal must leave all as it was."""
        before = self.follower.state(self.cache)
        try:
            operation()
        except Exception as error:
            if not is_refusal(error):
                raise
            self.follower.unchanged(self.cache, before)
            return False
        return True

    def room(self, count: int) -> bool:
        return self.columns + count <= LONGEST

    def possible(self, how: str) -> bool:
        """Return whether transformers can generate in this way with this cache.

        Only behind an empty cache it splits prompts in chunks and rows in beams, and looks up guesses right: behind a
        filled one it feeds the whole prompt again. It has prompt lookup for single rows in caches that can be cropped.
        A static cache keeps the number of rows that it was first called with.
        """
        if how == "lookup":
            return not self.columns and self.batch == 1 and not (self.limit and self.family in _SLIDING)
        if how == "beams" and self.limit:
            return not any(layer.is_initialized for layer in self.cache.layers)
        return not self.columns or how in ("greedy", "sample")

    # Rules.

    @rule(
        count=st.one_of(counts, st.integers(40, 90)),
        padding=st.sampled_from(("none", "none", "left", "right", "holes")),
        seed=seeds,
    )
    def feed(self, count, padding, seed):
        if not self.room(count):
            return
        ids, mask = self.new_columns(count, padding, seed)
        if self.attention == "stock":
            # Another attention works, padding included, or is refused.
            if self.works_or_refuses(lambda: self.call(ids, mask)):
                self.fed(ids, mask)
            return
        self.call(ids, mask)
        self.fed(ids, mask)

    @rule(amount=st.integers(0, 90), all_of_it=st.booleans())
    def crop(self, amount, all_of_it):
        amount = self.columns if all_of_it and amount > 60 else min(amount, self.columns)
        if self.works_or_refuses(lambda: self.cache.crop(-amount)):
            end = self.columns - amount
            self.ids, self.mask = self.ids[:, :end], self.mask[:, :end]

    @rule()
    def reset(self):
        self.cache.reset()
        self.ids, self.mask = self.ids[:, :0], self.mask[:, :0]

    @rule(seed=seeds)
    def reorder(self, seed):
        rows = torch.randint(0, self.batch, (self.batch,), generator=torch.Generator().manual_seed(seed))
        if self.columns:
            self.cache.reorder_cache(rows)
            self.ids, self.mask = self.ids[rows], self.mask[rows]

    @precondition(lambda self: self.columns)
    @rule(seed=seeds, boolean=st.booleans())
    def select(self, seed, boolean):
        rows = torch.randperm(self.batch, generator=torch.Generator().manual_seed(seed))[: 1 + seed % self.batch]
        if boolean:
            rows = torch.zeros(self.batch, dtype=torch.bool).index_fill(0, rows, True)
        if self.works_or_refuses(lambda: self.cache.batch_select_indices(rows)):
            self.ids, self.mask = self.ids[rows], self.mask[rows]
            self.batch = len(self.ids)

    @precondition(lambda self: self.columns and self.batch <= 2)
    @rule()
    def repeat(self):
        if self.works_or_refuses(lambda: self.cache.batch_repeat_interleave(2)):
            self.ids, self.mask = (each.repeat_interleave(2, 0) for each in (self.ids, self.mask))
            self.batch = len(self.ids)

    @rule(how=st.sampled_from(("deepcopy", "pickle")), go_on_with_copy=st.booleans())
    def copy_it(self, how, go_on_with_copy):
        """Copy the cache and go on with either; the other is kept and must not notice what happens to the first."""
        twin = copy.deepcopy(self.cache) if how == "deepcopy" else pickle.loads(pickle.dumps(self.cache))
        self.follower.copied(self.cache, twin)
        self.spare = (self.cache if go_on_with_copy else twin, self.ids, self.mask)
        if go_on_with_copy:
            self.cache = twin

    @precondition(lambda self: self.spare is not None)
    @rule()
    def change_caches(self):
        spare = (self.cache, self.ids, self.mask)
        self.cache, self.ids, self.mask = self.spare
        self.batch, self.spare = len(self.ids), spare

    @rule(attention=st.sampled_from(("vecinfer", "stock")))
    def switch_attention(self, attention):
        self.attend_with(attention)

    @rule(how=st.sampled_from(("greedy", "sample", "beams", "lookup", "chunks")), new=st.integers(1, 12), seed=seeds)
    def generate(self, how, new, seed):
        prompt = 1 + seed % 20
        if not self.room(prompt + new + 12):
            return
        how = how if self.possible(how) else "greedy"
        if how == "beams":
            # A cache that was cropped to nothing keeps its number of rows, one that was reset does not.
            self.cache.reset()
        ids, mask = self.new_columns(prompt, "left" if not self.columns and seed % 2 else "none", seed)
        ids, mask = torch.cat([self.ids, ids], 1), torch.cat([self.mask, mask], 1)
        options = {
            "greedy": {"do_sample": False},
            "sample": {"do_sample": True},
            "beams": {"do_sample": False, "num_beams": 2},
            "lookup": {"do_sample": False, "prompt_lookup_num_tokens": 4},
            "chunks": {"do_sample": False, "prefill_chunk_size": 7},
        }[how]

        text = self.model.generate(
            ids, attention_mask=mask.long(), max_new_tokens=new, **options, **cache_argument(self.cache)
        )
        self.attend_with("vecinfer" if self.model.config._attn_implementation == "vecinfer" else "stock")
        if how == "beams":
            # The cache holds the beams, which are no longer the user's rows.
            self.follower.audit(self.cache)
            self.cache.reset()
            if self.limit:
                self.batch *= 2
            self.ids = torch.zeros(self.batch, 0, dtype=torch.long)
            self.mask = self.ids.bool()
            return
        held = adapter.columns(self.cache)
        assert held >= ids.shape[1]
        self.ids = text[:, :held]
        self.mask = torch.nn.functional.pad(mask, (0, held - mask.shape[1]), value=True)

    @invariant()
    def holds_what_it_should(self):
        if not hasattr(self, "cache"):
            return
        self.follower.audit(self.cache)
        if self.spare is not None:
            self.follower.audit(self.spare[0])
