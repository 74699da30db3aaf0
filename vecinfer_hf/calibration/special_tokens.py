# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Special tokens at random places of calibration text, as between documents that were packed for training.

A model trained on packed documents takes the token between them for the beginning of a text: later tokens use it as
their attention sink. Plain text has no such token, and a codebook made from it alone has no centroids for its key.
Owns which tokens these are, where they are put, and how a text begins.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import ConfigError


SEPARATOR_FRACTION = 0.25
"""Default fraction of windows with separators, where a recipe reads gradients."""
_SPACING = 256
"""Tokens from one separator to the next, on average."""
_MIN_SPACING = 32


def bos_prefix(tokenizer: Any) -> list[int]:
    """Return the beginning-of-text token that the tokenizer adds by itself, as a list of at most one id."""
    first = list(tokenizer("")["input_ids"][:1])
    return first if first and first[0] == getattr(tokenizer, "bos_token_id", None) else []


def separator_ids(tokenizer: Any, vocab_size: int) -> list[int]:
    """Return the ids of the tokens that begin, end or fill texts, ascending.

    Args:
        tokenizer: the model's tokenizer, or None: then there are none.
        vocab_size: rows of the model's embedding; some tokenizers have a padding token that the model has not.
    """
    names = ("bos_token_id", "eos_token_id", "sep_token_id", "pad_token_id", "unk_token_id")
    found = [getattr(tokenizer, name, None) for name in names]
    return sorted({token for token in found if isinstance(token, int) and 0 <= token < vocab_size})


def with_separators(
    windows: torch.Tensor, ids: Sequence[int], fraction: float = SEPARATOR_FRACTION, seed: int = 0
) -> torch.Tensor:
    """Return windows int64 `[windows, T]`; in a fraction of them some tokens have become separators.

    A window gets one kind of separator. The windows that get one are spread evenly: their number is the fraction's,
    rounded up or down by chance.

    Args:
        windows: int64 `[windows, T]`.
        ids: what `separator_ids` returned; without any, the windows are returned unchanged.
        fraction: of windows, 0 to 1.
        seed: seed of windows, kinds and places.

    Raises:
        ConfigError: if the fraction is out of range.
    """
    check_separator_fraction(fraction)
    if not ids:
        return windows
    draw = random.Random(seed)
    windows, phase = windows.clone(), draw.random()
    for number, window in enumerate(windows):
        if int((number + 1) * fraction + phase) == int(number * fraction + phase):
            continue
        token, place = draw.choice(ids), min(draw.randint(_MIN_SPACING, _SPACING), len(window) - 1)
        while place < len(window):
            window[place] = token
            place += _MIN_SPACING + int(draw.expovariate(1 / (_SPACING - _MIN_SPACING)))
    return windows


def check_separator_fraction(fraction: float) -> None:
    """Raise ConfigError for a fraction out of range."""
    if not 0 <= fraction <= 1:
        raise ConfigError(f"separator_fraction is {fraction}; it must be a number from 0 to 1.")
