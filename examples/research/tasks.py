# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Few-shot questions with the stock cache and with codes: likelihood of the answers, and which ones are right.

Owns the scoring; examples/assets/tasks.py knows where questions come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vecinfer_hf.cache.sinks import CANDIDATES
from vecinfer_hf.calibration.attention import attention_function, plain_attention, run_body
from vecinfer_hf.calibration.fake_quantization import fake_quantized_attention
from vecinfer_hf.calibration.loss import model_logits
from vecinfer_hf.config import FIRST, SMALL_VALUES

from ..assets.tasks import Question
from .intervals import paired_difference


_BATCH_TOKENS = 16384


class AnswerScore(NamedTuple):
    """What a model makes of one answer.

    Args:
        nll: negative log-likelihood of the whole answer, nats.
        greedy: whether every token of it is the most likely one, which is whether greedy generation says it.
    """

    nll: float
    greedy: bool


@torch.no_grad()
def score_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    layers: Mapping[int, torch.nn.Module] | None = None,
    *,
    sink_length: int = 4,
    residual_length: int = 128,
    sink_choice: str = SMALL_VALUES,
    progress: Callable[[int], None] | None = None,
) -> list[AnswerScore]:
    """Score answers, given their contexts; every token reads codes for all but its sinks and exact window.

    That is how a generated token reads, and harder than a prompt given in one call, which attends to itself exactly.

    Args:
        model: the model, unchanged afterwards.
        tokenizer: its tokenizer.
        pairs: context and answer; tokens are those of both together.
        layers: layer index -> `LayerFakeQuantizer`; None for the stock cache.
        sink_length: exact early tokens.
        residual_length: exact recent tokens.
        sink_choice: see `VecInferConfig.sink_choice`.
        progress: called with the number of answers after each batch.
    """
    texts = [_tokens(tokenizer, context, answer) for context, answer in pairs]
    attention = plain_attention
    if layers is not None:
        attention = fake_quantized_attention(layers, sink_length, residual_length, sink_choice=sink_choice)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index][0]))
    scores: dict[int, AnswerScore] = {}
    while order:
        longest = len(texts[order[-1]][0])
        # In a short window sinks of short texts matter, and padding must not be chosen as one.
        alone = sink_choice != FIRST and residual_length < sink_length + CANDIDATES
        size = 1 if alone else _padded(model.device, longest)
        part, order = order[-size:], order[:-size]
        # Padded at the end, which no earlier token sees.
        batch = torch.zeros(len(part), longest, dtype=torch.long)
        for row, index in enumerate(part):
            batch[row, : len(texts[index][0])] = torch.tensor(texts[index][0])
        with attention_function(model, attention):
            hidden = run_body(model, batch)
        for row, index in enumerate(part):
            ids, start = texts[index]
            targets = batch[row, start : len(ids)].to(model.device)
            logits = model_logits(model, hidden[row, start - 1 : len(ids) - 1])
            nll = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="sum")
            scores[index] = AnswerScore(nll.item(), bool((logits.argmax(-1) == targets).all()))
        if progress is not None:
            progress(len(part))
    return [scores[index] for index in range(len(texts))]


def task_report(
    questions: Sequence[Question], stock: Sequence[AnswerScore], coded: Sequence[AnswerScore]
) -> dict[str, Any]:
    """Compare the scores of all answers of all questions, in order, with the stock cache and with codes.

    Returns:
        questions, measure ("accuracy" where there are answers to choose from, otherwise "greedy", the share of answers
        that greedy generation says word for word), for "stock" and "vecinfer" each its share and bits_per_byte (of the
        right answers, mean over questions), difference with low and high (95 %, see `paired_difference`), and
        bits_per_byte_difference with its standard error.
    """
    choices = any(len(question.answers) > 1 for question in questions)
    right, bits = [], []
    for scores in (stock, coded):
        correct, rate, start = [], [], 0
        for question in questions:
            own = scores[start : start + len(question.answers)]
            start += len(own)
            gold = own[question.gold]
            likeliest = min(range(len(own)), key=lambda index: own[index].nll)
            correct.append(likeliest == question.gold if choices else gold.greedy)
            rate.append(gold.nll / math.log(2) / len(question.answers[question.gold].encode()))
        right.append(correct)
        bits.append(rate)
    gained = sum(new and not old for old, new in zip(*right, strict=True))
    lost = sum(old and not new for old, new in zip(*right, strict=True))
    difference, low, high = paired_difference(gained, lost, len(questions))
    change = [new - old for old, new in zip(*bits, strict=True)]
    return {
        "questions": len(questions),
        "measure": "accuracy" if choices else "greedy",
        "stock": {"share": mean(right[0]), "bits_per_byte": mean(bits[0])},
        "vecinfer": {"share": mean(right[1]), "bits_per_byte": mean(bits[1])},
        "difference": difference,
        "low": low,
        "high": high,
        "bits_per_byte_difference": mean(change),
        "bits_per_byte_error": stdev(change) / math.sqrt(len(change)) if len(change) > 1 else None,
    }


def _padded(device: torch.device, longest: int) -> int:
    """How many texts of up to `longest` tokens run at once; padding costs time on a CPU."""
    return 1 if device.type == "cpu" else max(1, _BATCH_TOKENS // longest)


def _tokens(tokenizer: PreTrainedTokenizerBase, context: str, answer: str) -> tuple[list[int], int]:
    """Tokens of context and answer together, and how many at the start are the context's alone."""
    whole, first = tokenizer(context + answer)["input_ids"], tokenizer(context)["input_ids"]
    start = next(
        (i for i, (a, b) in enumerate(zip(whole, first, strict=False)) if a != b), min(len(whole), len(first))
    )
    return whole, max(1, min(start, len(whole) - 1))
