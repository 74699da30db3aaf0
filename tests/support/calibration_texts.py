# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Text and small configs for tests that calibrate tiny models: 97 tokens, one per character."""

import random
import re

import torch
from tiny_models import tiny_inputs

from vecinfer_hf import CalibrationConfig


IDS = tiny_inputs(1, 1200)[0]
"""Random token ids, int64 `[1200]`."""


class CharacterTokenizer:
    """One token per character and, if asked for, a beginning-of-text token that it adds by itself."""

    eos_token_id, pad_token_id, unk_token_id = 90, 91, 90

    def __init__(self, bos: bool = False):
        self.bos, self.bos_token_id = bos, 1

    def __call__(self, text, add_special_tokens=True, verbose=True):
        start = [1] if self.bos and add_special_tokens else []
        return {"input_ids": start + [2 + ord(character) % 87 for character in text]}


class WordTokenizer:
    """Few tokens a sentence, as real tokenizers have: words and the characters between them, ids from 10 on."""

    def __init__(self, bos: bool = False):
        self.known: dict[str, int] = {}
        self.bos, self.bos_token_id = bos, 1 if bos else None

    def __call__(self, text, add_special_tokens=True, verbose=True):
        start = [1] if self.bos and add_special_tokens else []
        pieces = re.findall(r"\w+|\W", text)
        return {"input_ids": start + [self.known.setdefault(piece, len(self.known) + 10) for piece in pieces]}

    def text(self, ids: torch.Tensor) -> str:
        """Return the text of `ids` int64 `[T]`, "~" for tokens that no text had."""
        back = {number: piece for piece, number in self.known.items()}
        return "".join(back.get(number, "~") for number in ids.tolist())


def random_text(length: int, seed: int = 0) -> str:
    """Return random characters."""
    draw = random.Random(seed)
    return "".join(draw.choice("abcdefgh ") for _ in range(length))


def small_config(**options) -> CalibrationConfig:
    """Return a config that calibrates a tiny model in a fraction of a second."""
    defaults = {"sequence_length": 120, "num_tokens": 600, "num_iterations": 3, "residual_length": 16}
    return CalibrationConfig(**{**defaults, **options})


def same_layers(first, second) -> bool:
    """Return whether two codebooks have the same layers with the same tensors, bit by bit."""
    return list(first.layers) == list(second.layers) and all(
        a is b is None or torch.equal(a, b)
        for index in first.layers
        for a, b in zip(first.layers[index], second.layers[index], strict=True)
    )
