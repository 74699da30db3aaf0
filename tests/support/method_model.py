# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""An independent float64 model of METHOD.md: what a layer's attention must give, call after call.

It shares no code with the package. Whoever uses it takes queries, keys and values from a model that runs and asks
`LayerModel.attend` what the layer's output must be and how far float32 may be off. The parts:

- method_codes.py: transforms and nearest centroids, with the alternatives that rounding allows;
- method_attention.py: softmax over exact and coded tokens, with an error bound;
- method_row.py: sinks, window and codes of one row;
- this file: all rows of a layer, padding, the order of storing and attending, crops, and sliding layers.

method_follower.py attaches it to running models and caches.

Shapes: `B` rows, `Hq` query heads over `H` key/value heads, `T` new columns, head size `D` (values may have another,
`Dv`). A column is a place of the
batch, padding included; a token is a valid column of one row. Everything is immutable: operations return new models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from method_attention import Tokens, attention
from method_row import Resolver, Row, Settings


FEW = 16
"""A call of at most so many columns (and at most the window) without padding is stored before it attends."""


class Call(NamedTuple):
    """What one layer is given in one forward pass, float64.

    Args:
        query: `[B, Hq, Tq, D]`, after the rotary embedding, of the last `Tq` new columns.
        keys: `[B, H, T, D]`, likewise.
        values: `[B, H, T, D]`.
        valid: bool `[B, T]`, which new columns are tokens of each row.
        scale: softmax scale.
        softcap: softcap of the scaled scores; 0 for none.
        sink_logits: `[Hq]` or None.
        shown: bool `[B, Tq, T]`, which new columns each query sees, for a layer's first call; None for causal.
    """

    query: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    valid: np.ndarray
    scale: float
    softcap: float = 0.0
    sink_logits: np.ndarray | None = None
    shown: np.ndarray | None = None


class Expected(NamedTuple):
    """What a call must give.

    Args:
        output: float64 `[B, Hq, T, Dv]`; what padding columns give is not defined.
        bound: float64, same shape: how far a float32 evaluation may be off.
        after: the layer after the call.
    """

    output: np.ndarray
    bound: np.ndarray
    after: LayerModel


@dataclass(frozen=True)
class LayerModel:
    """A layer that holds codes.

    Args:
        settings: how it stores.
        columns: bool `[B, columns]`, the valid columns of each row so far.
        rows: the rows' tokens; empty before the first call.
    """

    settings: Settings
    columns: np.ndarray
    rows: tuple[Row, ...] = ()

    @classmethod
    def empty(cls, settings: Settings) -> LayerModel:
        """Return a layer that has seen nothing."""
        return cls(settings, np.zeros((0, 0), bool))

    def attend(self, call: Call, resolver: Callable[[int], Resolver]) -> Expected:
        """Return what the call gives and the layer after it.

        Args:
            call: the layer's queries, keys and values.
            resolver: row -> what the running cache is asked where rounding decides, after the call.
        """
        batch, heads, count, dim = call.keys.shape
        seen = self.columns.shape[1]
        rows = self.rows or tuple(Row.empty(heads, dim, call.values.shape[3]) for _ in range(batch))
        columns = np.concatenate([self.columns.reshape(batch, seen), call.valid], 1)
        few = count <= min(FEW, self.settings.residual_length) and call.valid.all()
        output, bound = _no_output(call), _no_output(call)
        after = []
        for b, row in enumerate(rows):
            valid = call.valid[b]
            joined = row.joined(call.keys[b][:, valid], call.values[b][:, valid])
            stored = joined.stored(self.settings, seen == 0, resolver(b))
            after.append(stored)
            place = row.length + np.cumsum(valid) - 1
            visible = np.arange(joined.length) <= place[-call.query.shape[2] :, None]
            if not seen and call.shown is not None:
                visible = call.shown[b % len(call.shown)][:, valid]
            # The prompt attends to itself exactly, and so do many new tokens.
            held = stored if few and seen else joined
            output[b], bound[b] = _attend_row(call, b, held.tokens, self.settings.codes, visible)
        return Expected(output, bound, replace(self, columns=columns, rows=tuple(after)))

    def cropped(self, end: int, resolver: Callable[[int], Resolver]) -> LayerModel:
        """Return the layer with only its first `end` columns.

        Lengths move and codes stay codes: the window is shorter until it has filled again.
        """
        if end >= self.columns.shape[1]:
            return self
        columns = self.columns[:, :end]
        rows = tuple(
            row.cropped(int(left), self.settings, resolver(b))
            for b, (row, left) in enumerate(zip(self.rows, columns.sum(1), strict=True))
        )
        return replace(self, columns=columns if end else columns[:0], rows=rows if end else ())

    def selected(self, rows: list[int]) -> LayerModel:
        """Return the layer with the rows of these numbers, in this order."""
        if not self.rows:
            return self
        return replace(self, columns=self.columns[rows], rows=tuple(self.rows[row] for row in rows))


@dataclass(frozen=True)
class SlidingModel:
    """A layer that attends over the last `window` columns, exactly. It holds all of them, so that a crop is exact.

    Args:
        window: columns that a query sees, itself included.
        columns: bool `[B, columns]`.
        keys: float64 `[B, H, columns, D]`, or None before the first call.
        values: likewise.
    """

    window: int
    columns: np.ndarray
    keys: np.ndarray | None = None
    values: np.ndarray | None = None

    @classmethod
    def empty(cls, window: int) -> SlidingModel:
        """Return a layer that has seen nothing."""
        return cls(window, np.zeros((0, 0), bool))

    def attend(self, call: Call, resolver: object = None) -> Expected:
        """Return what the call gives and the layer after it."""
        batch, _, count, _ = call.keys.shape
        seen = self.columns.shape[1]
        columns = np.concatenate([self.columns.reshape(batch, seen), call.valid], 1)
        keys = call.keys if self.keys is None else np.concatenate([self.keys, call.keys], 2)
        values = call.values if self.values is None else np.concatenate([self.values, call.values], 2)
        output, bound = _no_output(call), _no_output(call)
        for b in range(batch):
            place, query = np.arange(seen + count), np.arange(seen, seen + count)[-call.query.shape[2] :, None]
            visible = (place <= query) & (place > query - self.window) & columns[b]
            if not seen and call.shown is not None:
                visible = call.shown[b % len(call.shown)] & columns[b]
            coded = np.zeros(seen + count, bool)
            held = [Tokens(keys[b, h], values[b, h], keys[b, h], values[b, h], coded) for h in range(keys.shape[1])]
            output[b], bound[b] = _attend_row(call, b, held.__getitem__, None, visible)
        return Expected(output, bound, replace(self, columns=columns, keys=keys, values=values))

    def cropped(self, end: int, resolver: object = None) -> SlidingModel:
        """Return the layer with only its first `end` columns."""
        if end == 0 or self.keys is None:
            return SlidingModel.empty(self.window)
        return replace(self, columns=self.columns[:, :end], keys=self.keys[:, :, :end], values=self.values[:, :, :end])

    def selected(self, rows: list[int]) -> SlidingModel:
        """Return the layer with the rows of these numbers, in this order."""
        if self.keys is None:
            return self
        return replace(self, columns=self.columns[rows], keys=self.keys[rows], values=self.values[rows])


def _no_output(call: Call) -> np.ndarray:
    """Return zeros `[B, Hq, T, Dv]`."""
    return np.zeros((*call.query.shape[:3], call.values.shape[3]))


def _attend_row(call: Call, b: int, tokens: Callable[[int], Tokens], codes, visible: np.ndarray):
    """Return output and bound `[Hq, T, D]` of row `b`: query head i reads key/value head i // (Hq / H)."""
    group = call.query.shape[1] // call.keys.shape[1]
    results = []
    for head in range(call.keys.shape[1]):
        own = slice(head * group, (head + 1) * group)
        logits = None if call.sink_logits is None else call.sink_logits[own]
        results.append(
            attention(call.query[b, own], tokens(head), codes, head, visible, call.scale, call.softcap, logits)
        )
    return tuple(np.concatenate(parts) for parts in zip(*results, strict=True))
