# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""retrieval_text.py: every question has its fact before it, and windows have the length that was asked for."""

import re

import pytest
import torch
from calibration_texts import CharacterTokenizer, WordTokenizer

from vecinfer_hf.calibration.retrieval_text import MIN_LENGTH, retrieval_windows
from vecinfer_hf.errors import ConfigError


BOS = 1
FILLER = torch.full((3, 4000), 5)


def lines(window, tokenizer):
    return [line for line in tokenizer.text(window).split("\n") if line.strip("~")]


def test_every_question_has_its_fact_before_it():
    tokenizer = WordTokenizer()
    for window in retrieval_windows(tokenizer, FILLER, 2048, 5, seed=2):
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
    first, again, other = (retrieval_windows(WordTokenizer(), FILLER, 1024, 2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_a_tokenizer_of_many_small_tokens_leaves_room_for_text():
    window = retrieval_windows(CharacterTokenizer(), FILLER + 90, MIN_LENGTH, 1)[0]
    assert window.shape == (MIN_LENGTH,)
    assert MIN_LENGTH // 2 <= (window == 95).sum() < MIN_LENGTH


def test_short_filler_is_repeated_and_the_first_token_stays_first():
    filler = torch.full((2, 100), 5)
    filler[:, 0] = BOS
    for window in retrieval_windows(WordTokenizer(), filler, 1024, 3, prefix=1):
        assert window[0] == BOS
        assert not (window[1:] == BOS).any()


def test_windows_too_short_for_facts_are_refused():
    with pytest.raises(ConfigError, match=f"have {MIN_LENGTH - 1} tokens; they need {MIN_LENGTH}"):
        retrieval_windows(WordTokenizer(), FILLER, MIN_LENGTH - 1, 1)
