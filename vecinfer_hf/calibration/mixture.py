# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The text of a calibration: windows of ordinary text and, as a share of all, windows that ask for facts in them.

Owns which windows each step reads. windows.py cuts the ordinary ones, retrieval_text.py makes the others,
special_tokens.py puts special tokens into what is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .retrieval_text import MIN_LENGTH, recall_windows
from .special_tokens import check_share, with_separators


PIECE_LENGTH = 2048
"""Tokens of a piece of text where whole windows would take too long."""
LONG_EVERY = 6
"""Every so many steps of refinement read a whole window instead of pieces."""
_MOST_RECALL = 64, 256
"""Whole windows and pieces with facts that are made, at most: they take time to make."""


@dataclass(frozen=True)
class TextMixture:
    """Windows and pieces of both kinds.

    Args:
        windows: int64 `[windows, T]`, ordinary text.
        pieces: int64 `[pieces, P]`, the same cut into pieces of `PIECE_LENGTH`, or whole if shorter.
        recall_windows: int64 `[windows, T]`, with facts; none if the share is 0.
        recall_pieces: int64 `[pieces, P]`, likewise.
        share: of windows with facts among all that are read, 0 to 1.
        separator_ids: special tokens to put into windows as they are read.
        separators: share of windows that get them, 0 to 1; 0 without any such tokens.
        seed: seed of where they are put.
    """

    windows: torch.Tensor
    pieces: torch.Tensor
    recall_windows: torch.Tensor
    recall_pieces: torch.Tensor
    share: float
    separator_ids: tuple[int, ...] = ()
    separators: float = 0.0
    seed: int = 0

    def all_windows(self) -> torch.Tensor:
        """Return all ordinary windows, int64 `[windows, T]`."""
        return self._separated(self.windows)

    def some_windows(self, count: int) -> torch.Tensor:
        """Return at most `count` windows, int64 `[windows, T]`, the ordinary ones spread evenly over the text."""
        return self._separated(_some(self.windows, self.recall_windows, count, self.share))

    def some_pieces(self, count: int) -> torch.Tensor:
        """Return at most `count` pieces, int64 `[pieces, P]`, likewise."""
        return self._separated(_some(self.pieces, self.recall_pieces, count, self.share))

    def drawing(self, batch_size: int, seed: int) -> Callable[[int], torch.Tensor]:
        """Return the function that draws the text of a step of refinement: a batch of pieces, at times one window."""
        generator = torch.Generator().manual_seed(seed)

        def pick(ordinary: torch.Tensor, recall: torch.Tensor) -> torch.Tensor:
            source = recall if torch.rand((), generator=generator) < self.share else ordinary
            return source[torch.randint(len(source), (1,), generator=generator)]

        def draw(step: int) -> torch.Tensor:
            if self.windows.shape[1] > self.pieces.shape[1] and step % LONG_EVERY == LONG_EVERY - 1:
                rows = pick(self.windows, self.recall_windows)
            else:
                rows = torch.cat([pick(self.pieces, self.recall_pieces) for _ in range(batch_size)])
            return self._separated(rows, int(torch.randint(1 << 30, (1,), generator=generator)))

        return draw

    def _separated(self, rows: torch.Tensor, seed: int | None = None) -> torch.Tensor:
        return with_separators(rows, self.separator_ids, self.separators, self.seed if seed is None else seed)


def text_mixture(
    windows: torch.Tensor,
    tokenizer: Any,
    share: float,
    seed: int,
    separator_ids: Sequence[int] = (),
    separators: float = 0.0,
) -> TextMixture:
    """Return the mixture for ordinary windows int64 `[windows, T]`.

    Args:
        windows: what `calibration_windows` returned.
        tokenizer: the model's tokenizer, or None: then there are no facts.
        share: of windows with facts, 0 to below 1; there are none in windows too short for them.
        seed: seed of the facts and of where special tokens are put.
        separator_ids: special tokens to put into a share of what is read.
        separators: that share, 0 to 1.

    Raises:
        ValueError: if a share is out of range.
    """
    check_share(separators)
    if not 0 <= share < 1:
        raise ValueError(f"retrieval_fraction is {share}; it must be a number from 0 to below 1.")
    length = min(PIECE_LENGTH, windows.shape[1])
    pieces = windows[:, : windows.shape[1] // length * length].reshape(-1, length)
    if tokenizer is None or length < MIN_LENGTH:
        share = 0.0
    # A beginning-of-text token stands at the front of every window and nowhere else.
    first = tokenizer("")["input_ids"][:1] if share else []
    prefix = int(bool(first) and first[0] == tokenizer.bos_token_id)
    ratio = share / (1 - share)
    counts = [
        min(most, math.ceil(ratio * len(rows))) for most, rows in zip(_MOST_RECALL, (windows, pieces), strict=True)
    ]
    recall = [
        recall_windows(tokenizer, windows, rows.shape[1], count, seed + number, prefix) if count else rows[:0]
        for number, (rows, count) in enumerate(zip((windows, pieces), counts, strict=True))
    ]
    separators = separators if separator_ids else 0.0
    return TextMixture(windows, pieces, *recall, share, tuple(separator_ids), separators, seed)


def _some(ordinary: torch.Tensor, recall: torch.Tensor, count: int, share: float) -> torch.Tensor:
    """At most `count` rows, ordinary ones spread evenly; if that is more than one, of both kinds by their shares."""
    wanted = min(len(recall), max(1, round(share * count)), count - 1)
    kept = min(len(ordinary), count - wanted)
    wanted = min(wanted, max(1, round(share / (1 - share) * kept)))
    return torch.cat([ordinary[[index * len(ordinary) // kept for index in range(kept)]], recall[:wanted]])
