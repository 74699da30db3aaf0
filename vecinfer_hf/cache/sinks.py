# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Which early tokens of a row stay in full precision, and where they are stored.

Attention sinks (arXiv 2309.17453): heads put surplus probability on a few early tokens with near-zero values. They are
often, not always, the first ones: Qwen2.5-Coder-1.5B takes the first token that is no digit. Keys carry their
positions, so a cache may store any tokens as its sinks and move the others to their places.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..config import FIRST, SMALL_VALUES
from ..ops.to_device import to_device


CANDIDATES = 64
"""Tokens besides the sinks that a choice looks at: two tiles, so that the codes behind stay aligned."""


class Piece(NamedTuple):
    """Tokens to store: of row `b` the `counts[b]` tokens from `first[b]` on.

    Args:
        keys: `[B, Hkv, T, Dk]`.
        values: `[B, Hkv, T, Dv]`.
        first: first token of each row.
        counts: tokens of each row.
    """

    keys: torch.Tensor
    values: torch.Tensor
    first: list[int]
    counts: list[int]


def valid_piece(key_states: torch.Tensor, value_states: torch.Tensor, valid: torch.Tensor | None) -> Piece:
    """Return the tokens of each row as one run; padding between tokens is moved behind them.

    Args:
        key_states: `[B, Hkv, T, Dk]`.
        value_states: `[B, Hkv, T, Dv]`.
        valid: bool `[B, T]` on the CPU, or None for all.
    """
    batch, tokens = key_states.shape[0], key_states.shape[2]
    if valid is None:
        return Piece(key_states, value_states, [0] * batch, [tokens] * batch)
    counts = valid.sum(1).tolist()
    first = [int(row.argmax()) if count else 0 for row, count in zip(valid.int(), counts, strict=True)]
    if all(row[start : start + count].all() for row, start, count in zip(valid, first, counts, strict=True)):
        return Piece(key_states, value_states, first, counts)
    order = to_device((~valid).int().argsort(dim=1, stable=True), key_states.device)[:, None, :, None]
    keys, values = (
        states.gather(2, order.expand(-1, states.shape[1], -1, states.shape[3]))
        for states in (key_states, value_states)
    )
    return Piece(keys, values, [0] * batch, counts)


class SinkOrder:
    """In which order the first tokens of each row and head are stored: the sinks, then the others as they were.

    Args:
        sink_length: sinks per row.
        sink_choice: "small_values" or "first".
    """

    def __init__(self, sink_length: int, sink_choice: str):
        self.sink_length = sink_length
        self.sink_choice = sink_choice
        self.clear()

    def clear(self) -> None:
        """Forget the order: the next call is a row's first again."""
        self.order: torch.Tensor | None = None
        """int32 `[B, Hkv, n]`: which token of the text is stored at each place; None for the text's own order."""
        self.ordered: list[int] = []
        """Tokens of each row that the order covers."""

    @property
    def nbytes(self) -> int:
        """Bytes of the order."""
        return 0 if self.order is None else self.order.nbytes

    def sinks_first(self, piece: Piece) -> list[Piece]:
        """Return the first tokens of empty rows with the sinks in front, and the rest as it is."""
        keys, values, first, counts = piece
        if self.sink_choice == FIRST or not max(counts) > self.sink_length > 0:
            return [piece]
        tokens = min(max(counts), self.sink_length + CANDIDATES)
        place = torch.arange(tokens, device=keys.device)
        if any(first):
            place = to_device(first, keys.device)[:, None] + place
        place = place.clamp_max(keys.shape[2] - 1).view(-1, 1, tokens, 1)
        head_keys, head_values = (
            states.gather(2, place.expand(*values.shape[:2], -1, states.shape[3])) for states in (keys, values)
        )
        own = to_device(counts, keys.device) if min(counts) < tokens else None
        order = sinks_to_front(choose_sinks(head_values, self.sink_length, self.sink_choice, own))
        self.order = order.to(torch.int32)
        self.ordered = covered = [min(count, tokens) for count in counts]
        head_keys, head_values = (
            states.gather(2, order.unsqueeze(-1).expand(-1, -1, -1, states.shape[3]))
            for states in (head_keys, head_values)
        )
        pieces = [Piece(head_keys, head_values, [0] * len(counts), covered)]
        if max(counts) > tokens:
            rest = [count - done for count, done in zip(counts, covered, strict=True)]
            pieces.append(
                Piece(keys, values, [start + done for start, done in zip(first, covered, strict=True)], rest)
            )
        return pieces

    def text_order(self, states: torch.Tensor) -> None:
        """Put `states` `[B, Hkv, T + 1, D]`, as they are stored, into the text's order, in place.

        The last place is spare. A row is no shorter than its own part of the order.
        """
        if self.order is None:
            return
        index = self.order[:, :, : states.shape[2] - 1].long().unsqueeze(-1).expand(-1, -1, -1, states.shape[3])
        states.scatter_(2, index, states[:, :, : index.shape[2]].clone())

    def crop(self, rows: list[int], left: list[int], quantized: list[int], values: torch.Tensor) -> torch.Tensor:
        """Cut the order of some rows, and give the places of sinks that are cut off to other tokens.

        Exact tokens come first, those with the smallest values before others; where none is left, the last coded ones.
        Coded tokens that remain codes therefore keep their places.

        Args:
            rows: `R` rows.
            left: tokens that each of them keeps, fewer than the order covers.
            quantized: coded tokens of each of them before the crop.
            values: `[R, Hkv, n, Dv]`, what is stored at their first `n` places.

        Returns:
            int64 `[R, Hkv, n]`, the place where each place's token was.
        """
        places = values.shape[2]
        place = torch.arange(places, device=values.device)
        index = to_device(rows, values.device)
        order = self.order[index, :, :places].long()
        end, coded = (to_device(each, values.device)[:, None, None] for each in (left, quantized))
        # 0 for sinks, 1 for exact tokens, 2 for coded ones, 3 for what is cut off.
        kind = (place >= self.sink_length).long() + ((place >= self.sink_length) & (place < self.sink_length + coded))
        kind = kind.expand_as(order).masked_fill(order >= end, 3)
        rank = torch.where(kind == 1, _size(values), -place.float())
        candidates = rank.argsort(dim=-1, stable=True)
        candidates = candidates.gather(2, kind.gather(2, candidates).argsort(dim=-1, stable=True))
        sinks = torch.zeros_like(kind).scatter_(2, candidates[:, :, : self.sink_length], 1).bool() & (kind < 3)
        source = torch.where(sinks, 0, torch.where(kind < 3, 1, 2)).argsort(dim=-1, stable=True)
        whole = torch.arange(self.order.shape[2], dtype=torch.int32, device=values.device)
        whole = whole.expand(len(rows), order.shape[1], -1).clone()
        whole[:, :, :places] = torch.where(place < end, order.gather(2, source), place).int()
        self.order = self.order.index_copy(0, index, whole)
        for row, count in zip(rows, left, strict=True):
            self.ordered[row] = count
        return source

    def select(self, rows: list[int], indices: torch.Tensor) -> None:
        """Keep the rows `indices` int64 `[n]`, which are the host's `rows`."""
        if self.order is not None:
            self.order = self.order.index_select(0, indices)
            self.ordered = [self.ordered[row] for row in rows]


def choose_sinks(
    values: torch.Tensor,
    sink_length: int,
    sink_choice: str = SMALL_VALUES,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return which of a row's first tokens become sinks, bool `[B, Hkv, n]`, `n = min(T, sink_length + 64)`.

    Each head chooses its own.

    Args:
        values: `[B, Hkv, T, D]`, from the first token on.
        sink_length: tokens to choose.
        sink_choice: "small_values" for those with the smallest values, "first" for the first ones.
        counts: int64 `[B]` on the device of `values`, the tokens of each row; default all.
    """
    candidates = values[:, :, : sink_length + CANDIDATES]
    batch, heads, tokens, _ = candidates.shape
    place = torch.arange(tokens, device=values.device)
    if sink_choice == FIRST:
        return (place < sink_length).expand(batch, heads, -1)
    size = _size(candidates)
    if counts is not None:
        size = size.masked_fill(place >= counts[:, None, None], torch.inf)
    # Earlier places win a tie.
    chosen = size.argsort(dim=-1, stable=True)[..., :sink_length]
    return torch.zeros_like(size, dtype=torch.bool).scatter_(2, chosen, True)


def _size(values: torch.Tensor) -> torch.Tensor:
    """Return the squared length of `values` `[..., D]`, float32; NaN and Inf count as large."""
    return values.float().square().sum(-1).nan_to_num(torch.inf, torch.inf)


def sinks_to_front(chosen: torch.Tensor) -> torch.Tensor:
    """Return the order of tokens with the chosen ones first, both parts as they were, int64 `[B, Hkv, n]`."""
    return (~chosen).to(torch.uint8).argsort(dim=-1, stable=True)
