# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Few-shot questions: scored like one text at a time, and read through codes."""

import math

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_model

from examples.assets.tasks import Question
from examples.research.methods import own_method
from examples.research.tasks import AnswerScore, _tokens, score_answers, task_report
from vecinfer_hf import VecInferCache
from vecinfer_hf.evaluation.attention import attention_set_to
from vecinfer_hf.integration.compat import cache_argument


class LetterTokenizer:
    """One token per character, but "ab" is one token."""

    def __call__(self, text):
        return {"input_ids": [90 if letter == "#" else ord(letter) % 80 for letter in text.replace("ab", "#")]}


def test_an_answer_begins_where_its_tokens_differ():
    tokenizer = LetterTokenizer()
    assert _tokens(tokenizer, "xy", "zw") == (tokenizer("xyzw")["input_ids"], 2)
    # Context and answer share a token: it belongs to the answer.
    assert _tokens(tokenizer, "xya", "bz") == (tokenizer("xyabz")["input_ids"], 2)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_scores_are_those_of_each_text_alone(family):
    model, tokenizer = tiny_model(family), LetterTokenizer()
    pairs = [("question one", " yes"), ("a much longer question", " no"), ("q", " perhaps")]
    scores = score_answers(model, tokenizer, pairs)
    for (context, answer), score in zip(pairs, scores, strict=True):
        ids, start = _tokens(tokenizer, context, answer)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, start - 1 : -1]
        targets = torch.tensor(ids[start:])
        nll = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="sum").item()
        assert score.nll == pytest.approx(nll, rel=1e-4)
        assert score.greedy == bool((logits.argmax(-1) == targets).all())


def test_texts_padded_to_a_batch_score_the_same(monkeypatch):
    model, tokenizer = tiny_model(), LetterTokenizer()
    layers = own_method(model, random_codebook(model.config)).layers
    pairs = [("question one", " yes"), ("a much longer question", " no"), ("q", " perhaps")]
    options = {"sink_length": 1, "residual_length": 4, "sink_choice": "first"}
    alone = score_answers(model, tokenizer, pairs, layers, **options)
    # What an accelerator does: several texts at once.
    monkeypatch.setattr("examples.research.tasks._padded", lambda device, longest: 3)
    together = score_answers(model, tokenizer, pairs, layers, **options)
    for one, other in zip(alone, together, strict=True):
        assert one.nll == pytest.approx(other.nll, rel=1e-4)
        assert one.greedy == other.greedy


def test_codes_are_read_as_the_real_cache_reads_them():
    model, tokenizer = tiny_model(), LetterTokenizer()
    codebook = random_codebook(model.config)
    context, answer = "some examples and then a question", " yes"
    options = {"sink_length": 2, "residual_length": 8, "sink_choice": "first"}
    (score,) = score_answers(model, tokenizer, [(context, answer)], own_method(model, codebook).layers, **options)
    ids, start = _tokens(tokenizer, context, answer)
    cache = VecInferCache(model.config, codebook, **options)
    with torch.no_grad(), attention_set_to(model, "vecinfer"):
        logits = [model(torch.tensor([[token]]), **cache_argument(cache)).logits[0, -1] for token in ids[:-1]]
    rows = torch.stack(logits)[start - 1 :].double()
    nll = torch.nn.functional.cross_entropy(rows, torch.tensor(ids[start:]), reduction="sum").item()
    assert score.nll == pytest.approx(nll, rel=1e-3)
    (stock,) = score_answers(model, tokenizer, [(context, answer)])
    assert abs(stock.nll - score.nll) > 0.01


def test_choices_are_judged_by_the_likeliest_answer():
    questions = [Question("", (" A", " B"), 1), Question("", (" A", " B"), 0)]
    stock = [AnswerScore(nll, False) for nll in (2.0, 1.0, 1.0, 2.0)]
    coded = [AnswerScore(nll, False) for nll in (1.0, 2.0, 1.0, 2.0)]
    report = task_report(questions, stock, coded)
    assert report["measure"] == "accuracy"
    assert (report["stock"]["share"], report["vecinfer"]["share"], report["difference"]) == (1, 0.5, -0.5)
    # Bits per byte of the right answers, two bytes each: 1, 1 nats; then 2, 1.
    assert report["stock"]["bits_per_byte"] == pytest.approx(1 / (2 * math.log(2)))
    assert report["bits_per_byte_difference"] == pytest.approx(0.5 / (2 * math.log(2)))
    assert report["bits_per_byte_error"] == pytest.approx(0.5 / (2 * math.log(2)))


def test_single_answers_are_judged_word_for_word():
    questions = [Question("", (" yes",), 0)] * 3
    stock = [AnswerScore(1.0, True), AnswerScore(1.0, False), AnswerScore(1.0, True)]
    coded = [AnswerScore(1.0, False), AnswerScore(1.0, True), AnswerScore(1.0, True)]
    report = task_report(questions, stock, coded)
    assert report["measure"] == "greedy"
    assert report["stock"]["share"] == report["vecinfer"]["share"] == pytest.approx(2 / 3)
    assert report["low"] < 0 < report["high"]
