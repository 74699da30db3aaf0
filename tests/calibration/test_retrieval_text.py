# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Text that asks for facts in it: everything asked has been told before; and what each step reads."""

import random
import re
import sys

import pytest
import torch
from tiny_models import tiny_model

from vecinfer_hf import VecInferConfig
from vecinfer_hf.calibration.mixture import PIECE_LENGTH, text_mixture
from vecinfer_hf.calibration.retrieval_text import MIN_LENGTH, recall_windows


BOS = 1


class Letters:
    """A tokenizer with a token for every character."""

    bos_token_id = None

    def __call__(self, text, **_):
        return {"input_ids": [ord(letter) for letter in text]}


class Words(Letters):
    """A tokenizer with few tokens a fact, as real ones have: words and what stands between them."""

    def __init__(self):
        self.known = {}

    def __call__(self, text, **_):
        pieces = re.findall(r"\w+|\W", text)
        return {"input_ids": [self.known.setdefault(piece, len(self.known) + 10) for piece in pieces]}

    def text(self, ids):
        back = {number: piece for piece, number in self.known.items()}
        return "".join(back.get(number, "~") for number in ids.tolist())


FILLER = torch.full((3, 4000), 5)


def lines(window, tokenizer):
    return [line for line in tokenizer.text(window).split("\n") if line.strip("~")]


def test_every_question_has_its_fact_before_it():
    tokenizer = Words()
    for window in recall_windows(tokenizer, FILLER, 2048, 5, seed=2):
        assert window.shape == (2048,)
        found = lines(window, tokenizer)
        told, asked = found[: len(found) // 2], found[len(found) // 2 :]
        assert len(told) == len(asked) == 2048 // 128
        answers = []
        for question in asked:
            # A question tells its fact again: name and value are the words that only one fact has.
            own = set(re.findall(r"\w+", question))
            matching = max(told, key=lambda fact: len(own & set(re.findall(r"\w+", fact))))
            shared = own & set(re.findall(r"\w+", matching))
            assert any(sum(word in re.findall(r"\w+", fact) for fact in told) == 1 for word in shared), question
            answers.append(matching)
        assert len(set(answers)) > len(asked) // 2
        assert answers != told, "asked in the order of telling"


def test_the_same_seed_gives_the_same_windows_and_another_one_others():
    first, again, other = (recall_windows(Words(), FILLER, 1024, 2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_a_tokenizer_of_many_small_tokens_leaves_room_for_text():
    window = recall_windows(Letters(), FILLER, MIN_LENGTH, 1)[0]
    assert window.shape == (MIN_LENGTH,)
    assert (window == 5).sum() >= MIN_LENGTH // 2


def test_short_filler_is_repeated_and_the_first_token_stays_first():
    filler = torch.full((2, 100), 5)
    filler[:, 0] = BOS
    for window in recall_windows(Words(), filler, 1024, 3, prefix=1):
        assert window[0] == BOS
        assert not (window[1:] == BOS).any()


def test_windows_too_short_for_facts_are_refused():
    with pytest.raises(ValueError, match=f"have {MIN_LENGTH - 1} tokens; they need {MIN_LENGTH}"):
        recall_windows(Words(), FILLER, MIN_LENGTH - 1, 1)


def ordinary(count, length, start=1000):
    return torch.arange(start, start + count * length).view(count, length)


def kinds(rows, windows):
    """How many rows are ordinary text: no token of a fact has a number so large."""
    return sum(int(row.min() >= windows.min()) for row in rows)


def test_a_mixture_has_the_share_it_was_asked_for():
    windows = ordinary(12, 2 * PIECE_LENGTH)
    text = text_mixture(windows, Words(), 0.25, seed=0)
    assert text.share == 0.25
    assert text.pieces.shape == (24, PIECE_LENGTH)
    for rows, length in ((text.some_windows(8), 2 * PIECE_LENGTH), (text.some_pieces(8), PIECE_LENGTH)):
        assert rows.shape == (8, length)
        assert kinds(rows, windows) == 6
    assert [kinds(text.some_windows(count), windows) for count in (1, 2, 3)] == [1, 1, 2]
    assert [len(text.some_windows(count)) for count in (1, 2, 3)] == [1, 2, 3]
    draw, same = text.drawing(4, 0), text.drawing(4, 0)
    drawn = [draw(step) for step in range(60)]
    assert all(torch.equal(rows, same(step)) for step, rows in enumerate(drawn))
    assert [rows.shape for rows in drawn[:6]] == [(4, PIECE_LENGTH)] * 5 + [(1, 2 * PIECE_LENGTH)]
    total = sum(map(len, drawn))
    share = 1 - sum(kinds(rows, windows) for rows in drawn) / total
    # Four standard deviations of a share of 0.25 among 210 draws.
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / total) ** 0.5


@pytest.mark.parametrize("count", [9, 10, 17, 32])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_all_text_is_read_where_there_is_little_and_the_share_is_kept(count, share):
    windows = ordinary(count, MIN_LENGTH)
    rows = text_mixture(windows, Words(), share, seed=0).some_windows(1000)
    assert kinds(rows, windows) == count
    # Whole windows: off by less than one, or 64 windows with facts, the most that are made.
    assert abs(len(rows) - count - min(64, share / (1 - share) * count)) < 1


def test_facts_come_behind_the_beginning_of_text():
    class WithBeginning(Words):
        bos_token_id = BOS

        def __call__(self, text, **options):
            ids = super().__call__(text)["input_ids"]
            return {"input_ids": ids if options.get("add_special_tokens") is False else [BOS, *ids]}

    windows = ordinary(1, 1024)
    windows[:, 0] = BOS
    for row in text_mixture(windows, WithBeginning(), 0.9, seed=0).recall_windows:
        assert row[0] == BOS
        assert not (row[1:] == BOS).any()


@pytest.mark.parametrize(
    ("tokenizer", "share", "length"), [(None, 0.5, 1024), (Words(), 0.0, 1024), (Words(), 0.5, MIN_LENGTH - 1)]
)
def test_without_tokenizer_share_or_room_all_text_is_ordinary(tokenizer, share, length):
    windows = ordinary(5, length)
    text = text_mixture(windows, tokenizer, share, seed=0)
    assert text.share == 0
    assert kinds(text.some_windows(5), windows) == 5
    assert kinds(torch.cat([text.drawing(2, 0)(step) for step in range(12)]), windows) == 24


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=f"recall is {share}"):
        text_mixture(ordinary(2, 1024), Words(), share, seed=0)


class TinyLetters(Letters):
    """Letters for the tiny models' 97 tokens."""

    def __call__(self, text, **_):
        return {"input_ids": [number % 97 for number in super().__call__(text)["input_ids"]]}


@pytest.mark.parametrize(
    ("recipe", "recall", "share"), [("default", None, 0.5), ("default", 0, 0), ("paper", None, 0)]
)
def test_calibration_with_gradients_reads_half_of_its_text_as_recall(monkeypatch, recipe, recall, share):
    module = sys.modules["vecinfer_hf.calibration.calibrate"]
    name = "record_gradients" if recipe == "default" else "record_states"
    record, read = getattr(module, name), []

    def recording(model, windows, *args, **options):
        read.append(windows)
        return record(model, windows, *args, **options)

    monkeypatch.setattr(module, name, recording)
    text = "".join(random.Random(0).choice("abc ") for _ in range(4 * MIN_LENGTH))
    config = VecInferConfig(recipe=recipe, sequence_length=MIN_LENGTH, residual_length=16, key_bits=1, value_bits=1,
                            num_samples=256, num_iterations=1)  # fmt: skip
    codebook = module.calibrate(
        tiny_model(), TinyLetters(), text, config, recall=recall, refine_steps=1, progress=False
    )
    assert codebook.provenance["recall"] == share
    (windows,) = read
    ordinary = torch.tensor(TinyLetters()(text)["input_ids"]).view(4, MIN_LENGTH)
    assert sum(any(torch.equal(row, other) for other in ordinary) for row in windows) == len(windows) * (1 - share)


def test_a_share_out_of_range_ends_calibration_before_it_begins():
    config = VecInferConfig(sequence_length=MIN_LENGTH, residual_length=16)
    module = sys.modules["vecinfer_hf.calibration.calibrate"]
    with pytest.raises(ValueError, match="recall is 2; it is a share"):
        module.calibrate(tiny_model(), TinyLetters(), "abc " * MIN_LENGTH, config, recall=2, progress=False)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"config": {"recipe": "paper"}}, "the recipe paper without allocation and refinement"),
        ({"ids": True}, "token ids were given"),
        ({"config": {"sequence_length": MIN_LENGTH - 12}}, "windows of 500 tokens are too short"),
    ],
)
def test_recall_that_has_no_effect_is_announced(monkeypatch, given, reason):
    module, said = sys.modules["vecinfer_hf.calibration.calibrate"], []
    monkeypatch.setattr(module.logger, "warning_once", said.append)
    text = "abc " * MIN_LENGTH
    options = {"sequence_length": MIN_LENGTH, "residual_length": 16, "key_bits": 1, "value_bits": 1, "num_samples": 64}
    config = VecInferConfig(**{**options, "num_iterations": 1, **given.get("config", {})})
    source = (torch.tensor(TinyLetters()(text)["input_ids"]), None) if given.get("ids") else (TinyLetters(), text)
    codebook = module.calibrate(tiny_model(), *source, config, recall=0.4, progress=False)
    assert codebook.provenance["recall"] == 0
    assert any("recall=0.4 has no effect" in line and reason in line for line in said)
