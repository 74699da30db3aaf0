# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""METHOD.md section 3 in float64: which tokens of one row are sinks, window or codes, after any calls and crops.

Part of the method model (method_model.py says how the parts fit). Shares no code with the package: numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from method_attention import Tokens
from method_codes import EPS, LayerCodes


CANDIDATES = 64
"""Tokens besides the sinks themselves that sinks are chosen from."""
SMALL_VALUES, FIRST = "small_values", "first"


class Settings(NamedTuple):
    """How a layer stores: sinks and window in tokens, the sinks' choice ("small_values" or "first"), the codebook."""

    sink_length: int
    residual_length: int
    sink_choice: str
    codes: LayerCodes


class Resolver(NamedTuple):
    """What a running cache is asked where float32 may go one way or the other.

    Args:
        read: the row's tokens as the cache returns them, keys and values float64 `[H, T, D]`, or None if it cannot.
        sinks: the row's exact sinks, keys float64 `[H, S, D]`, or None.
    """

    read: Callable[[], tuple[np.ndarray, np.ndarray] | None]
    sinks: Callable[[], np.ndarray | None]


@dataclass(frozen=True)
class Row:
    """One row of one layer: all its valid tokens in the order of the text, `H` heads, `T` tokens, head size `D`.

    Args:
        keys: float64 `[H, T, D]`, as the model made them.
        values: float64 `[H, T, D]`.
        code_keys: float64 `[H, T, D]`, codes as vectors of the transformed space, for the tokens that are coded.
        code_values: float64 `[H, T, D]`.
        coded: bool `[H, T]`.
        sink: bool `[H, T]`.
    """

    keys: np.ndarray
    values: np.ndarray
    code_keys: np.ndarray
    code_values: np.ndarray
    coded: np.ndarray
    sink: np.ndarray

    @classmethod
    def empty(cls, heads: int, dim: int, value_dim: int | None = None) -> Row:
        """Return a row without tokens; values have `value_dim` elements, by default as many as keys."""
        keys, flags = np.zeros((heads, 0, dim)), np.zeros((heads, 0), bool)
        values = np.zeros((heads, 0, dim if value_dim is None else value_dim))
        return cls(keys, values, keys, values, flags, flags)

    @property
    def length(self) -> int:
        """Valid tokens."""
        return self.keys.shape[1]

    def tokens(self, head: int) -> Tokens:
        """Return what one head holds."""
        return Tokens(
            self.keys[head], self.values[head], self.code_keys[head], self.code_values[head], self.coded[head]
        )

    def joined(self, keys: np.ndarray, values: np.ndarray) -> Row:
        """Return the row with new tokens `[H, n, D]` behind its own, neither sinks nor coded."""
        flags = np.zeros(keys.shape[:2], bool)
        return replace(
            self,
            keys=np.concatenate([self.keys, keys], 1),
            values=np.concatenate([self.values, values], 1),
            code_keys=np.concatenate([self.code_keys, np.zeros_like(keys)], 1),
            code_values=np.concatenate([self.code_values, np.zeros_like(values)], 1),
            coded=np.concatenate([self.coded, flags], 1),
            sink=np.concatenate([self.sink, flags], 1),
        )

    def stored(self, settings: Settings, first_call: bool, resolver: Resolver) -> Row:
        """Return the joined row as it is kept: sinks chosen or completed, tokens that left the window coded.

        Args:
            settings: how the layer stores.
            first_call: whether these tokens are the cache's first call, which chooses the sinks.
            resolver: what the cache did where rounding decides.
        """
        row = self
        if first_call and settings.sink_choice == SMALL_VALUES and 0 < settings.sink_length < self.length:
            row = row.with_chosen_sinks(settings, resolver)
        return row.with_completed_sinks(settings).quantized(settings, resolver)

    def cropped(self, length: int, settings: Settings, resolver: Resolver) -> Row:
        """Return the row's first `length` tokens: exact ones stay exact, codes stay codes, sinks stay sinks.

        Sinks that were cut off are replaced by the exact tokens of smallest values among what is left, and where none
        is left by the last coded ones.
        """
        parts = {
            name: getattr(self, name)[:, :length]
            for name in ("keys", "values", "code_keys", "code_values", "coded", "sink")
        }
        row = replace(self, **parts)
        if settings.sink_choice == SMALL_VALUES and length > settings.sink_length:
            row = row.with_replaced_sinks(settings, resolver)
        return row.with_completed_sinks(settings)

    def with_replaced_sinks(self, settings: Settings, resolver: Resolver) -> Row:
        """Return the row with other tokens in place of sinks that were cut off."""
        sink = self.sink.copy()
        for head in range(len(sink)):
            missing = settings.sink_length - sink[head].sum()
            exact = np.flatnonzero(~sink[head] & ~self.coded[head])
            coded = np.flatnonzero(~sink[head] & self.coded[head])
            if missing > len(exact):
                sink[head, coded[len(coded) + len(exact) - missing :]] = True
                missing = len(exact)
            sink[head, self.smallest(head, exact, missing, resolver)] = True
        return replace(self, sink=sink)

    def with_completed_sinks(self, settings: Settings) -> Row:
        """Return the row with its earliest tokens added to the sinks while there are fewer than `sink_length`."""
        sink = self.sink.copy()
        for head in range(len(sink)):
            missing = settings.sink_length - sink[head].sum()
            sink[head, np.flatnonzero(~sink[head])[: max(missing, 0)]] = True
        return replace(self, sink=sink)

    def with_chosen_sinks(self, settings: Settings, resolver: Resolver) -> Row:
        """Return the row, without sinks and codes yet, with `sink_length` early tokens of least values as sinks."""
        sink = self.sink.copy()
        early = np.arange(min(settings.sink_length + CANDIDATES, self.length))
        for head in range(len(sink)):
            sink[head, self.smallest(head, early, settings.sink_length, resolver)] = True
        return replace(self, sink=sink)

    def smallest(self, head: int, places: np.ndarray, count: int, resolver: Resolver) -> np.ndarray:
        """Return `count` of the exact tokens at `places`, those with the smallest values."""
        size = (self.values[head, places] ** 2).sum(1)
        # A sum of D squares errs by D roundings, the squares' own included.
        error = EPS * (self.values.shape[2] + 4) * size
        order = np.argsort(size, kind="stable")
        chosen, left = order[:count], order[count:]
        if not len(chosen) or not len(left):
            return places[chosen]
        sinks = resolver.sinks() if (size - error)[left].min() <= (size + error)[chosen].max() else None
        if sinks is not None:
            # The cache's own choice counts if rounding allows it.
            taken = np.flatnonzero((self.keys[head, places][:, None] == sinks[head]).all(2).any(1))
            other = np.setdiff1d(order, taken)
            if len(taken) == count and (size - error)[taken].max() <= (size + error)[other].min():
                chosen = taken
        return places[chosen]

    def quantized(self, settings: Settings, resolver: Resolver) -> Row:
        """Return the row with every token coded that is no sink and not among the last `residual_length` others."""
        coded = self.coded.copy()
        for head in range(len(coded)):
            others = np.flatnonzero(~self.sink[head])
            coded[head, others[: max(len(others) - settings.residual_length, 0)]] = True
        new = coded & ~self.coded
        if not new.any():
            return self
        code_keys, code_values, read = self.code_keys.copy(), self.code_values.copy(), None
        for head in range(len(coded)):
            places = np.flatnonzero(new[head])
            if not len(places):
                continue
            for side, states, target, index in (
                (settings.codes.key, self.keys, code_keys, 0),
                (settings.codes.value, self.values, code_values, 1),
            ):
                choice = side.encode(states[head, places], head)
                vectors = choice.vectors
                if choice.doubtful:
                    read = resolver.read() if read is None else read
                    if read is not None:
                        vectors = side.settle(choice, read[index][head, places], head)
                target[head, places] = vectors
        return replace(self, code_keys=code_keys, code_values=code_values, coded=coded)

    def read(self, settings: Settings) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return keys and values as they are read back, `[H, T, D]`, and bounds on the errors of float32 readings."""
        result = []
        for side, states, codes in (
            (settings.codes.key, self.keys, self.code_keys),
            (settings.codes.value, self.values, self.code_values),
        ):
            read, error = states.copy(), np.zeros_like(states)
            for head in range(len(read)):
                coded = self.coded[head]
                read[head, coded], error[head, coded] = side.decoded(codes[head, coded], head)
            result.append((read, error))
        (keys, key_error), (values, value_error) = result
        return keys, values, key_error, value_error
