# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Needle retrieval: numbers hidden in a long text, one of them asked for afterwards. Owns the samples and their score.

The form is RULER's (https://arxiv.org/abs/2404.06654, multi-key needles); words, numbers and places are drawn here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..calibration.attention import attention_function, plain_attention, run_body
from ..calibration.refine import model_logits
from ..calibration.simulate import simulated_attention


_NOUNS = (
    "anchor", "basket", "candle", "desert", "engine", "forest", "garden", "hammer", "island", "jacket", "kettle",
    "ladder", "mirror", "needle", "orchard", "pencil", "quarry", "river", "saddle", "temple", "umbrella", "valley",
    "window", "yogurt",
)  # fmt: skip
_NEEDLE = "\nThe special magic number for {word} is: {number}.\n"
_QUESTION = "\nWhat is the special magic number for {word}? The special magic number for {word} is:"


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
    tokenizer: PreTrainedTokenizerBase, haystack: str, length: int, keys: int, count: int, seed: int = 0
) -> list[NeedleSample]:
    """Return samples of exactly `length` tokens, each with `keys` numbers for different words hidden in its context.

    The same seed gives the same samples. Every sample cuts another piece of the haystack.

    Args:
        tokenizer: the model's tokenizer.
        haystack: text to hide them in, of more than `length` tokens.
        length: tokens of context, question and answer together.
        keys: numbers hidden, one of which is asked for.
        count: samples.
        seed: seed of words, numbers, places and pieces.

    Raises:
        ValueError: if the haystack or the length is too short, or there are more keys than words.
    """
    if not 1 <= keys <= len(_NOUNS):
        raise ValueError(f"keys is {keys}; it must be 1 to {len(_NOUNS)}.")

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    draw = random.Random(seed)
    hay = encode(haystack)
    first = tokenizer("")["input_ids"][:1]
    bos = first if first and first[0] == tokenizer.bos_token_id else []
    samples = []
    for _ in range(count):
        words = draw.sample(_NOUNS, keys)
        numbers = [str(draw.randrange(10**6, 10**7)) for _ in words]
        needles = [
            encode(_NEEDLE.format(word=word, number=number)) for word, number in zip(words, numbers, strict=True)
        ]
        question = encode(_QUESTION.format(word=words[0]))
        answer = encode(_QUESTION.format(word=words[0]) + " " + numbers[0])[len(question) :]
        room = length - len(bos) - sum(map(len, needles)) - len(question) - len(answer)
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
        samples.append(NeedleSample(torch.tensor(context + question + answer), len(context), len(answer)))
    return samples


@torch.no_grad()
def needle_hits(
    model: PreTrainedModel,
    samples: Sequence[NeedleSample],
    layers: Mapping[int, torch.nn.Module] | None = None,
    *,
    sink_length: int = 4,
    residual_length: int = 128,
    progress: Callable[[int], None] | None = None,
) -> list[bool]:
    """Return for each sample whether the model finds its number.

    The context is read in one call, exactly; question and answer then read codes for all of it but the sinks and the
    exact window, as a question does that is asked about a stored text. One pass per sample, by simulation.

    Args:
        model: the model, unchanged afterwards.
        samples: what `needle_samples` returned.
        layers: layer index -> `LayerSimulator` or `PeerSimulator`; None for the stock cache.
        sink_length: exact first tokens.
        residual_length: exact recent tokens.
        progress: called with 1 after each sample.
    """
    hits = []
    for sample in samples:
        attention = plain_attention
        if layers is not None:
            attention = simulated_attention(layers, sink_length, residual_length, 1, sample.context_length)
        with attention_function(model, attention):
            hidden = run_body(model, sample.ids[None, :-1])[0, -sample.answer_length :]
        hits.append(answered(model_logits(model, hidden), sample))
        if progress is not None:
            progress(1)
    return hits


def answered(logits: torch.Tensor, sample: NeedleSample) -> bool:
    """Whether greedy generation would have given the whole answer.

    Args:
        logits: `[A, vocabulary]`, the predictions of the sample's last `A = answer_length` tokens, each made with the
            answer's earlier tokens given, which is what greedy generation sees as long as it is right.
        sample: the sample.
    """
    return bool((logits.argmax(-1).cpu() == sample.ids[-sample.answer_length :]).all())
