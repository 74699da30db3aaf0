# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Random sequences in which calls also fail or are refused, anywhere, and the cache is repaired or goes on.

A call that can be judged beforehand (mask, rows, room) must be refused before anything changed: the next right call
works as if it had not been. A call that breaks off inside (an error in any layer, Ctrl-C at any line) may leave the
cache as it was; else the next call must say that `crop` or `reset` repairs it, and either must do so exactly.
"""

from __future__ import annotations

import sys
from types import FrameType

import package_adapter as adapter
import torch
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from method_follower import Divergence, Injection
from refusal import assert_refusal, assert_says_how_to_repair
from sequences import Sequences, counts, seeds

from vecinfer_hf.integration.compat import cache_argument


class Interruption(BaseException):
    """Raised in place of KeyboardInterrupt, which hypothesis takes for the user's."""


class InterruptAtLine:
    """A block in which Interruption is raised at the n-th line that the package's own files run."""

    def __init__(self, number: int):
        self.left = number
        self.place = None

    def _trace(self, frame: FrameType, event: str, argument):
        if not frame.f_code.co_filename.startswith(str(adapter.PACKAGE)):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise Interruption(self.place)
        return self._trace

    def __enter__(self):
        self._previous = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exception):
        sys.settrace(self._previous)


class DisturbedSequences(Sequences):
    """`Sequences` with failures."""

    def refused(self, operation) -> None:
        """Run a call that must be refused; it must have changed nothing."""
        before = self.follower.state(self.cache)
        try:
            operation()
        except Exception as error:
            assert_refusal(error)
        else:
            raise AssertionError("a wrong call was accepted")
        self.follower.unchanged(self.cache, before)

    def after_failure(self, before: int, repair: str, ids, mask) -> None:
        """Bring a cache that held `before` columns and whose last call failed back into use."""
        if repair == "retry":
            try:
                self.call(ids, mask)
            except Divergence:
                raise
            except Exception as error:
                assert_says_how_to_repair(error)
                repair = "crop"
            else:
                self.fed(ids, mask)
                return
        if repair == "crop":
            try:
                self.cache.crop(min(before - int(self.cache.get_seq_length()), 0))
            except Exception as error:
                # What cannot be cropped exactly says so.
                assert_says_how_to_repair(error, "reset")
            else:
                return
        self.cache.reset()
        self.ids, self.mask = self.ids[:, :0], self.mask[:, :0]

    repairs = st.sampled_from(("retry", "crop", "reset"))

    @rule(
        count=counts,
        padding=st.sampled_from(("none", "none", "left", "holes")),
        seed=seeds,
        layer=st.integers(0, 2),
        place=st.sampled_from(Injection.PLACES),
        memory=st.booleans(),
        repair=repairs,
    )
    def fail_in_a_layer(self, count, padding, seed, layer, place, memory, repair):
        if not self.room(2 * count) or self.attention == "stock":
            return
        ids, mask = self.new_columns(count, padding, seed)
        before = self.columns
        layer = min(layer, len(self.cache.layers) - 1)
        error = torch.OutOfMemoryError("out of memory, as asked for") if memory else Interruption("as asked for")
        self.follower.injection = Injection(error, layer, place)
        try:
            self.call(ids, mask)
        except BaseException as raised:
            if raised is not error:
                raise
        else:
            raise AssertionError("the call went on after an error in a layer")
        if layer == len(self.cache.layers) - 1 and place == "after attention":
            # All layers have the call: it failed behind the cache.
            self.fed(ids, mask)
            return
        self.after_failure(before, repair, ids, mask)

    @rule(
        count=counts,
        padding=st.sampled_from(("none", "none", "left")),
        seed=seeds,
        line=st.integers(1, 1200),
        repair=repairs,
    )
    def interrupt_at_any_line(self, count, padding, seed, line, repair):
        if not self.room(2 * count) or self.attention == "stock":
            return
        ids, mask = self.new_columns(count, padding, seed)
        before = self.columns
        try:
            with InterruptAtLine(line):
                self.call(ids, mask)
        except Interruption:
            pass
        else:
            self.fed(ids, mask)
            return
        if self.follower.of(self.cache).columns > before:
            # The last layer's attention was done.
            self.fed(ids, mask)
            return
        self.after_failure(before, repair, ids, mask)

    @precondition(lambda self: self.columns and self.attention == "vecinfer")
    @rule(count=st.integers(1, 20), seed=seeds)
    def change_the_past(self, count, seed):
        """A mask that hides a stored token or shows stored padding."""
        if not self.room(count):
            return
        ids, mask = self.new_columns(count, "none", seed)
        row, column = seed % self.batch, seed % self.columns
        whole = torch.cat([self.mask, mask], 1)
        whole[row, column] = ~whole[row, column]
        self.refused(lambda: self.call(ids, mask, attention_mask=whole.long()))

    @precondition(lambda self: self.columns and self.attention == "vecinfer" and not self.mask.all())
    @rule(count=st.integers(1, 20), seed=seeds)
    def leave_out_the_mask(self, count, seed):
        if not self.room(count):
            return
        ids, _ = self.new_columns(count, "none", seed)
        self.refused(lambda: self.call(ids, torch.ones_like(ids).bool(), attention_mask=None))

    @precondition(lambda self: self.columns)
    @rule(count=st.integers(1, 20), seed=seeds, rows=st.integers(1, 6))
    def another_number_of_rows(self, count, seed, rows):
        if not self.room(count) or rows == self.batch:
            return
        ids, mask = self.new_columns(count, "none", seed, batch=rows)
        position_ids = torch.arange(self.columns, self.columns + count).expand(rows, -1)
        self.refused(lambda: self.model(ids, position_ids=position_ids, **cache_argument(self.cache)))

    @precondition(lambda self: self.limit)
    @rule(more=st.integers(1, 30), seed=seeds)
    def overflow(self, more, seed):
        ids, mask = self.new_columns(self.limit - self.columns + more, "none", seed)
        self.refused(lambda: self.call(ids, mask))

    @precondition(lambda self: self.columns)
    @rule(seed=seeds)
    def words_that_do_not_exist(self, seed):
        ids, mask = self.new_columns(3, "none", seed)
        ids[0, 1] = 97 + seed
        before = self.follower.state(self.cache)
        if not self.room(3):
            return
        try:
            self.call(ids, mask)
        except IndexError:
            self.follower.unchanged(self.cache, before)
        else:
            raise AssertionError("a token that the model does not have was accepted")
