# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The text of a calibration: windows of ordinary text and a fraction of windows with needle-style facts and questions.

Owns which windows each step reads. windows.py cuts the ordinary ones, retrieval_text.py makes the others,
special_tokens.py puts special tokens into a fraction of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ConfigError
from .retrieval_text import MIN_LENGTH, retrieval_windows
from .special_tokens import check_separator_fraction, with_separators
from .windows import bos_prefix


PIECE_LENGTH = 2048
"""Tokens of a piece of text where whole windows would take too long."""
LONG_EVERY = 6
"""Refinement reads a whole window instead of pieces in one of so many steps."""
_MOST_RETRIEVAL = 64, 256
"""Most whole windows and pieces with facts that are made: each takes time to make."""


@dataclass(frozen=True)
class TextMixture:
    """Windows and pieces of both kinds.

    Args:
        windows: int64 `[windows, T]`, ordinary text.
        pieces: int64 `[pieces, P]`, the same cut into pieces of `PIECE_LENGTH`, or whole if shorter.
        retrieval_windows: int64 `[windows, T]`, with facts; none if the fraction is 0.
        retrieval_pieces: int64 `[pieces, P]`, likewise.
        retrieval_fraction: fraction of windows with facts among all that are read, 0 <= x < 1.
        separator_ids: special tokens to put into windows as they are read.
        separator_fraction: fraction of windows that get them, 0 to 1; 0 without separator ids.
        seed: seed of the places.
    """

    windows: torch.Tensor
    pieces: torch.Tensor
    retrieval_windows: torch.Tensor
    retrieval_pieces: torch.Tensor
    retrieval_fraction: float
    separator_ids: tuple[int, ...] = ()
    separator_fraction: float = 0.0
    seed: int = 0

    def all_windows(self) -> torch.Tensor:
        """Return all ordinary windows, int64 `[windows, T]`."""
        return self._separated(self.windows)

    def some_windows(self, count: int) -> torch.Tensor:
        """Return at most `count` windows, int64 `[windows, T]`, the ordinary ones spread evenly over the text."""
        return self._separated(_some(self.windows, self.retrieval_windows, count, self.retrieval_fraction))

    def some_pieces(self, count: int) -> torch.Tensor:
        """Return at most `count` pieces, int64 `[pieces, P]`, likewise."""
        return self._separated(_some(self.pieces, self.retrieval_pieces, count, self.retrieval_fraction))

    def drawing(self, batch_size: int, seed: int) -> Callable[[int], torch.Tensor]:
        """Return the function that draws the text of a step of refinement: a batch of pieces, at times one window."""
        generator = torch.Generator().manual_seed(seed)

        def pick(ordinary: torch.Tensor, retrieval: torch.Tensor) -> torch.Tensor:
            source = retrieval if torch.rand((), generator=generator) < self.retrieval_fraction else ordinary
            return source[torch.randint(len(source), (1,), generator=generator)]

        def draw(step: int) -> torch.Tensor:
            if self.windows.shape[1] > self.pieces.shape[1] and step % LONG_EVERY == LONG_EVERY - 1:
                rows = pick(self.windows, self.retrieval_windows)
            else:
                rows = torch.cat([pick(self.pieces, self.retrieval_pieces) for _ in range(batch_size)])
            return self._separated(rows, int(torch.randint(1 << 30, (1,), generator=generator)))

        return draw

    def _separated(self, rows: torch.Tensor, seed: int | None = None) -> torch.Tensor:
        """Return rows int64 `[n, T]` with separators in a fraction of them."""
        seed = self.seed if seed is None else seed
        return with_separators(rows, self.separator_ids, self.separator_fraction, seed)


def text_mixture(
    windows: torch.Tensor,
    tokenizer: Any,
    retrieval_fraction: float,
    seed: int,
    separator_ids: Sequence[int] = (),
    separator_fraction: float = 0.0,
) -> TextMixture:
    """Return the mixture for ordinary windows int64 `[windows, T]`.

    Args:
        windows: what `calibration_windows` returned.
        tokenizer: the model's tokenizer, or None: then there are no facts.
        retrieval_fraction: fraction of windows with facts, 0 <= x < 1; there are none in windows too short for them.
        seed: seed of the facts and of where special tokens are put.
        separator_ids: special tokens to put into a fraction of the windows.
        separator_fraction: that fraction, 0 to 1.

    Raises:
        ConfigError: if a fraction is out of range.
    """
    check_separator_fraction(separator_fraction)
    if not 0 <= retrieval_fraction < 1:
        raise ConfigError(f"retrieval_fraction is {retrieval_fraction}; it must be a number from 0 to below 1.")
    length = min(PIECE_LENGTH, windows.shape[1])
    pieces = windows[:, : windows.shape[1] // length * length].reshape(-1, length)
    if tokenizer is None or length < MIN_LENGTH:
        retrieval_fraction = 0.0
    # A beginning-of-text token stands at the front of every window and nowhere else.
    prefix = len(bos_prefix(tokenizer)) if retrieval_fraction else 0
    ratio = retrieval_fraction / (1 - retrieval_fraction)
    counts = [
        min(most, math.ceil(ratio * len(rows))) for most, rows in zip(_MOST_RETRIEVAL, (windows, pieces), strict=True)
    ]
    retrieval = [
        retrieval_windows(tokenizer, windows, rows.shape[1], count, seed + number, prefix) if count else rows[:0]
        for number, (rows, count) in enumerate(zip((windows, pieces), counts, strict=True))
    ]
    separator_fraction = separator_fraction if separator_ids else 0.0
    return TextMixture(windows, pieces, *retrieval, retrieval_fraction, tuple(separator_ids), separator_fraction, seed)


def _some(ordinary: torch.Tensor, retrieval: torch.Tensor, count: int, fraction: float) -> torch.Tensor:
    """Return at most `count` rows `[n, T]`; more than one are of both kinds by the fraction.

    Args:
        ordinary: int64 `[windows, T]`, spread evenly in the result.
        retrieval: int64 `[windows, T]`.
        count: rows, at least 1.
        fraction: of rows from `retrieval`, 0 <= x < 1.
    """
    wanted = min(len(retrieval), max(1, round(fraction * count)), count - 1)
    kept = min(len(ordinary), count - wanted)
    wanted = min(wanted, max(1, round(fraction / (1 - fraction) * kept)))
    return torch.cat([ordinary[[index * len(ordinary) // kept for index in range(kept)]], retrieval[:wanted]])
