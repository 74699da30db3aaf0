# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""special_tokens.py: where special tokens are put, how many, and which ones they are."""

import pytest
import torch
from calibration_texts import CharacterTokenizer
from transformers import AutoTokenizer

from vecinfer_hf.calibration.special_tokens import separator_ids, with_separators
from vecinfer_hf.errors import ConfigError


WINDOWS = torch.full((200, 2048), 5)
IDS = [90, 91]


def test_a_fraction_of_the_windows_has_one_kind_of_separator_each():
    separated = with_separators(WINDOWS, IDS, 0.25, seed=3)
    assert (WINDOWS == 5).all(), "the given windows have changed"
    changed = [row for row in separated if (row != 5).any()]
    assert len(changed) == 50
    kinds = [set(row.tolist()) - {5} for row in changed]
    assert {len(kind) for kind in kinds} == {1}
    assert set.union(*kinds) == {90, 91}
    # 2048 tokens at one every 256: 50 windows of 8 each, and the sum of so many spacings spreads by a twentieth.
    assert sum(int((row != 5).sum()) for row in changed) == pytest.approx(400, rel=0.2)
    for row in changed:
        places = (row != 5).nonzero().flatten()
        assert places[0] >= 32
        assert (places.diff() >= 32).all()


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7, 8, 16, 37])
def test_any_number_of_windows_has_its_fraction(count):
    numbers = [
        sum(bool((row != 5).any()) for row in with_separators(WINDOWS[:count], IDS, 0.25, seed)) for seed in range(60)
    ]
    assert {count // 4} <= set(numbers) <= {count // 4, -(-count // 4)}
    # What is left to chance is right on average: 60 draws of a probability of at most 1/2, three standard deviations.
    assert sum(numbers) / 60 == pytest.approx(count / 4, abs=3 * 0.5 / 60**0.5)


def test_the_same_seed_gives_the_same_places_and_another_one_others():
    first, again, other = (with_separators(WINDOWS, IDS, 1.0, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all((row != 5).any() for row in first)


def test_short_windows_have_one_at_their_end():
    separated = with_separators(WINDOWS[:20, :8], IDS, 1.0)
    assert (separated[:, :7] == 5).all()
    assert (separated[:, 7] >= 90).all()


def test_no_fraction_and_no_ids_leave_text_as_it_is():
    for ids, share in ((IDS, 0), ([], 1)):
        assert torch.equal(with_separators(WINDOWS, ids, share), WINDOWS)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_fraction_out_of_range_is_refused(share):
    for ids in (IDS, []):
        with pytest.raises(ConfigError, match=f"separator_fraction is {share}; it must be a number from 0 to 1"):
            with_separators(WINDOWS, ids, share)


def test_only_ids_that_the_model_has_count():
    class Odd(CharacterTokenizer):
        eos_token_id, pad_token_id, unk_token_id = [7, 8], 97, 3

    assert separator_ids(CharacterTokenizer(), 97) == [1, 90, 91]
    assert separator_ids(Odd(), 97) == [1, 3]
    assert separator_ids(None, 97) == []


@pytest.mark.realmodel
def test_the_separators_of_a_real_tokenizer(smollm2_path):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    ids = separator_ids(tokenizer, 49152)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
