# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Special tokens in the midst of text, as between documents that are strung together.

A model trained on documents strung together takes the token between them for the beginning of a text: what follows
rests its attention there. Plain text has no such token, so a codebook made from it alone has no centroids for its key.
Owns where they are put.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch


SHARE = 0.25
"""Share of the windows that get separators."""
_SPACING = 256
"""Tokens from one separator to the next, on average."""
_MIN_SPACING = 32


def separator_ids(tokenizer: Any, vocab_size: int) -> list[int]:
    """Return the ids of the tokens that begin, end or fill texts, ascending.

    Args:
        tokenizer: the model's tokenizer, or None: then there are none.
        vocab_size: rows of the model's embedding; some tokenizers have a padding token that the model has not.
    """
    names = ("bos_token_id", "eos_token_id", "sep_token_id", "pad_token_id", "unk_token_id")
    found = [getattr(tokenizer, name, None) for name in names]
    return sorted({token for token in found if isinstance(token, int) and 0 <= token < vocab_size})


def with_separators(windows: torch.Tensor, ids: Sequence[int], share: float = SHARE, seed: int = 0) -> torch.Tensor:
    """Return windows int64 `[windows, T]`, in a share of which some tokens have become separators.

    A window gets one kind of separator. The windows that do are spread evenly, so that any number of windows has its
    share of them but for the part of a window, which is left to chance.

    Args:
        windows: int64 `[windows, T]`.
        ids: what `separator_ids` returned; without any, the windows stay as they are.
        share: of windows, 0 to 1.
        seed: seed of windows, kinds and places.

    Raises:
        ValueError: if the share is out of range.
    """
    check_share(share)
    if not ids:
        return windows
    draw = random.Random(seed)
    windows, phase = windows.clone(), draw.random()
    for number, window in enumerate(windows):
        if int((number + 1) * share + phase) == int(number * share + phase):
            continue
        token, place = draw.choice(ids), min(draw.randint(_MIN_SPACING, _SPACING), len(window) - 1)
        while place < len(window):
            window[place] = token
            place += _MIN_SPACING + int(draw.expovariate(1 / (_SPACING - _MIN_SPACING)))
    return windows


def check_share(share: float) -> None:
    """Raise ValueError for a share out of range."""
    if not 0 <= share <= 1:
        raise ValueError(f"separators is {share}; it is a share of the windows, from 0 to 1.")
