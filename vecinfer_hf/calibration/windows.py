# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Windows of token ids: whole pieces of texts, spread evenly, behind the beginning-of-text token if there is one.

Owns the choice of windows; source.py reads what a user gives, recorder.py runs the model on the windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..errors import ConfigError
from .source import TokenText, read_source
from .special_tokens import bos_prefix


def text_windows(
    tokenizer: PreTrainedTokenizerBase, text: str, window_length: int, max_windows: int | None = None
) -> torch.Tensor:
    """Return windows of a text as token ids: whole ones that do not overlap, spread evenly over the text.

    Each begins with the tokenizer's beginning-of-text token if the tokenizer adds one by itself.

    Args:
        tokenizer: the model's tokenizer.
        text: plain text.
        window_length: tokens per window.
        max_windows: at most this many; default as many as the text has.

    Returns:
        int64 `[windows, window_length]`.

    Raises:
        ConfigError: if the text is shorter than one window.
    """
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.long)
    prefix = bos_prefix(tokenizer)
    available = available_windows(len(ids), len(prefix), window_length)
    if available == 0:
        raise ConfigError(
            f"The text has {len(ids)} tokens, but one window needs {window_length}; use a longer text or a smaller "
            "window."
        )
    return spread_windows(ids, prefix, window_length, min(available, max_windows or available))


def calibration_windows(
    tokenizer_or_ids: Any, texts: Any, sequence_length: int, num_tokens: int
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Return the windows of what `read_source` accepts; see `windows_of_texts`."""
    return windows_of_texts(read_source(tokenizer_or_ids, texts)[1], sequence_length, num_tokens)


def windows_of_texts(
    texts: Sequence[TokenText], sequence_length: int, num_tokens: int
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Return windows of whole `sequence_length`, spread evenly over each text, and what the texts were.

    Args:
        texts: every text gives windows in proportion to its length; no window holds parts of two.
        sequence_length: tokens per window.
        num_tokens: tokens in all windows together, at most; rounded down to whole windows, but never below one.

    Returns:
        int64 `[windows, sequence_length]` and one dict per text: name, sha256, tokens (in the text), windows (used).

    Raises:
        ConfigError: if all texts are shorter than one window, saying how many tokens there are and are needed.
    """
    available = [available_windows(len(text.ids), len(text.prefix), sequence_length) for text in texts]
    if sum(available) == 0:
        found = [len(text.ids) for text in texts]
        raise ConfigError(
            f"The calibration text has {sum(found)} tokens (longest text {max(found, default=0)}), but one window "
            f"needs {sequence_length}; give a longer text or a smaller sequence_length."
        )
    used = _in_proportion(available, min(max(1, num_tokens // sequence_length), sum(available)))
    windows = [
        spread_windows(text.ids, text.prefix, sequence_length, count) for text, count in zip(texts, used, strict=True)
    ]
    record = [
        {"name": text.name, "sha256": text.sha256, "tokens": len(text.ids), "windows": count}
        for text, count in zip(texts, used, strict=True)
    ]
    return torch.cat(windows), record


def available_windows(tokens: int, prefix_length: int, window_length: int) -> int:
    """Return how many windows that do not overlap a text of so many tokens has."""
    step = window_length - prefix_length
    return tokens // step if step > 0 else 0


def spread_windows(ids: torch.Tensor, prefix: Sequence[int], window_length: int, count: int) -> torch.Tensor:
    """Return `count` of the available windows, spread evenly over the text, int64 `[count, window_length]`.

    Args:
        ids: int64 `[T]`, the text without its beginning.
        prefix: tokens that every window begins with.
        window_length: tokens per window, the prefix included.
        count: windows, at most those that are available.
    """
    step = window_length - len(prefix)
    available = available_windows(len(ids), len(prefix), window_length)
    chosen = torch.tensor([index * available // count for index in range(count)], dtype=torch.long)
    body = ids[: available * step].view(available, step)[chosen] if count else ids.new_empty(0, step)
    return torch.cat([torch.tensor(list(prefix), dtype=torch.long).expand(count, -1), body], dim=1)


def _in_proportion(available: list[int], wanted: int) -> list[int]:
    """Split `wanted` in proportion to `available`, largest remainders first, so that the sum is exact."""
    total = sum(available)
    parts = [wanted * count // total for count in available]
    by_remainder = sorted(range(len(available)), key=lambda i: (-(wanted * available[i] % total), i))
    for index in by_remainder[: wanted - sum(parts)]:
        parts[index] += 1
    return parts
