# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Long texts with numbers hidden in them, and questions about them. Owns the samples; retrieval.py runs them.

The form is RULER's (https://arxiv.org/abs/2404.06654, multi-key needles), asked by a sentence to complete, which base
models and small chat models answer more often than a question; words, numbers and places are drawn here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from vecinfer_hf.calibration.special_tokens import bos_prefix


_NOUNS = (
    "anchor", "basket", "candle", "desert", "engine", "forest", "garden", "hammer", "island", "jacket", "kettle",
    "ladder", "mirror", "needle", "orchard", "pencil", "quarry", "river", "saddle", "temple", "umbrella", "valley",
    "window", "yogurt",
)  # fmt: skip
_NEEDLE = "\nThe special magic number for {word} is: {number}.\n"
_QUESTION = "\nThe special magic number for {word} is:"


@dataclass(frozen=True)
class NeedleSample:
    """One text with its question and answer.

    Args:
        ids: int64 `[T]`: context, question, answer.
        context_length: tokens of the context, which is there before anything is asked.
        answer_length: last tokens, the number.
    """

    ids: torch.Tensor
    context_length: int
    answer_length: int


def needle_samples(
    tokenizer: PreTrainedTokenizerBase,
    haystack: str,
    length: int,
    keys: int,
    count: int,
    seed: int = 0,
    *,
    questions: int = 1,
) -> list[NeedleSample]:
    """Return samples of `length` tokens, each with `keys` numbers for different words hidden in its context.

    The same seed gives the same samples. Every text cuts another piece of the haystack. Several questions about one
    text cost `needle_hits` little more than one; where a question is shorter than another one, so is its sample.

    Args:
        tokenizer: the model's tokenizer.
        haystack: text to hide them in, of more than `length` tokens.
        length: tokens of context, question and answer together.
        keys: numbers hidden, one of which is asked for.
        count: samples.
        seed: seed of words, numbers, places and pieces.
        questions: samples with the same context, each asking for another one of its numbers.

    Raises:
        ValueError: if the haystack or the length is too short, or there are more keys than words or questions than
            keys.
    """
    if not 1 <= keys <= len(_NOUNS):
        raise ValueError(f"keys is {keys}; it must be 1 to {len(_NOUNS)}.")
    if not 1 <= questions <= keys:
        raise ValueError(f"questions is {questions}; it must be 1 to {keys}, the numbers hidden in a text.")

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    draw = random.Random(seed)
    hay = encode(haystack)
    bos = bos_prefix(tokenizer)
    samples = []
    while len(samples) < count:
        words = draw.sample(_NOUNS, keys)
        numbers = [str(draw.randrange(10**6, 10**7)) for _ in words]
        needles = [
            encode(_NEEDLE.format(word=word, number=number)) for word, number in zip(words, numbers, strict=True)
        ]
        asked = []
        for word, number in zip(words[:questions], numbers, strict=False):
            question = encode(_QUESTION.format(word=word))
            asked.append((question, encode(_QUESTION.format(word=word) + " " + number)[len(question) :]))
        longest = max(len(question) + len(answer) for question, answer in asked)
        room = length - len(bos) - sum(map(len, needles)) - longest
        if room < keys or room > len(hay):
            raise ValueError(
                f"Samples of {length} tokens leave {room} for a haystack that has {len(hay)} tokens; "
                "choose another length or a longer text."
            )
        start = draw.randrange(len(hay) - room + 1)
        piece = hay[start : start + room]
        draw.shuffle(needles)
        places = sorted(draw.sample(range(room), keys))
        context, last = list(bos), 0
        for place, needle in zip(places, needles, strict=True):
            context += piece[last:place] + needle
            last = place
        context += piece[last:]
        samples += [
            NeedleSample(torch.tensor(context + question + answer), len(context), len(answer))
            for question, answer in asked
        ]
    return samples[:count]
