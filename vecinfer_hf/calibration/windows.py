# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration text as windows of token ids, and the record of what it was.

Owns tokenization and choice of windows; recorder.py runs the model on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch


def calibration_windows(
    tokenizer_or_ids: Any,
    texts: str | Sequence[str] | Mapping[str, str] | None,
    sequence_length: int,
    num_tokens: int,
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Return windows of whole `sequence_length`, spread evenly over each text, and what the texts were.

    Args:
        tokenizer_or_ids: a tokenizer for `texts`, or token ids (a tensor or list of ints; then `texts` is None).
        texts: one text, several, or name -> text; every text gives windows in proportion to its length.
        sequence_length: tokens per window.
        num_tokens: tokens in all windows together, at most; rounded down to whole windows, but never below one.

    Returns:
        int64 `[windows, sequence_length]` and one dict per text: name, sha256, tokens (in the text), windows (used).

    Raises:
        ValueError: if the texts are shorter than one window, saying how many tokens there are and are needed.
        TypeError: if there are neither texts nor ids.
    """
    sources = []
    if texts is None:
        if callable(tokenizer_or_ids):
            raise TypeError("texts is None; give texts to calibrate on, or token ids instead of the tokenizer.")
        ids = torch.as_tensor(tokenizer_or_ids).flatten().long()
        digest = hashlib.sha256(ids.numpy(force=True).tobytes()).hexdigest()
        sources.append(("token ids", digest, ids, []))
    else:
        named = {"text": texts} if isinstance(texts, str) else texts
        if not isinstance(named, Mapping):
            named = {f"text {index}": text for index, text in enumerate(named)}
        # Texts are cut into windows in their middle, so only the beginning-of-text token is added, if there is one.
        first = tokenizer_or_ids("")["input_ids"][:1]
        prefix = first if first and first[0] == tokenizer_or_ids.bos_token_id else []
        for name, text in named.items():
            ids = torch.tensor(tokenizer_or_ids(text, add_special_tokens=False, verbose=False)["input_ids"])
            sources.append((name, hashlib.sha256(text.encode()).hexdigest(), ids.long(), prefix))
    length = sequence_length - len(sources[0][3]) if sources else 0
    available = [len(ids) // length if length > 0 else 0 for _, _, ids, _ in sources]
    if sum(available) == 0:
        found = [len(ids) for _, _, ids, _ in sources]
        raise ValueError(
            f"The calibration text has {sum(found)} tokens (longest text {max(found, default=0)}), but one window "
            f"needs {sequence_length}; give a longer text or a smaller sequence_length."
        )
    wanted = min(max(1, num_tokens // sequence_length), sum(available))
    windows, used = [], []
    for (_, _, ids, prefix), count in zip(sources, _shares(available, wanted), strict=True):
        blocks = len(ids) // length if length > 0 else 0
        starts = [index * blocks // count * length for index in range(count)]
        windows += [
            torch.cat([torch.tensor(prefix, dtype=torch.long), ids[start : start + length]]) for start in starts
        ]
        used.append(count)
    record = [
        {"name": name, "sha256": digest, "tokens": len(ids), "windows": count}
        for (name, digest, ids, _), count in zip(sources, used, strict=True)
    ]
    return torch.stack(windows), record


def _shares(available: list[int], wanted: int) -> list[int]:
    """Split `wanted` in proportion to `available`, largest remainders first, so that the sum is exact."""
    total = sum(available)
    shares = [wanted * count // total for count in available]
    by_remainder = sorted(range(len(available)), key=lambda i: (-(wanted * available[i] % total), i))
    for index in by_remainder[: wanted - sum(shares)]:
        shares[index] += 1
    return shares
