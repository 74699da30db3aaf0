# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""own_text.py: the model's own words: seeded, begun in several ways, drawn from what is probable."""

import pytest
import torch
from tiny_models import tiny_model

from vecinfer_hf.calibration.own_text import starts, write_text


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def test_the_same_seed_writes_the_same_text(model):
    first, again, other = (write_text(model, None, 4, 24, seed=seed) for seed in (0, 0, 1))
    assert first.shape == (4, 24)
    assert first.dtype == torch.long
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.unique(dim=0)) == 4


def test_tokens_are_the_models_own(model):
    """Every token is among those the model finds probable behind the ones before it."""
    least = 0.3
    text = write_text(model, None, 3, 20, least=least)
    probability = model(text).logits.softmax(-1)[:, :-1]
    drawn = probability.gather(-1, text[:, 1:, None]).squeeze(-1)
    assert (drawn >= 0.999 * least * probability.amax(-1)).all()


def test_tokens_are_drawn_by_their_probability(model):
    """The first drawn token of many rows that begin alike has the model's distribution (chi-square, 5 sigma)."""
    from vecinfer_hf.calibration.own_text import _draw

    rows = 20000
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(rows, generator=torch.Generator().manual_seed(1))
    drawn = _draw(logits.expand(rows, -1), uniform, 1.0, 0.0)
    expected = logits.softmax(-1)[0] * rows
    chi_square = ((torch.bincount(drawn, minlength=12) - expected).square() / expected).sum()
    assert chi_square < 11 + 5 * (2 * 11) ** 0.5


def test_writing_ends_when_told(model):
    assert write_text(model, None, 2, 50, go_on=lambda done: done < 7).shape == (2, 7)


@pytest.mark.realmodel
def test_rows_begin_as_texts_and_as_chats(smollm2, smollm2_tokenizer):
    begins = starts(smollm2, smollm2_tokenizer, 8, 0)
    texts, chats = begins[::2], begins[1::2]
    assert {len(ids) for ids in texts} == {2}
    assert {ids[0] for ids in texts} <= {smollm2_tokenizer.bos_token_id, smollm2_tokenizer.eos_token_id}
    for ids in chats:
        assert smollm2_tokenizer.decode(ids).endswith("<|im_start|>assistant\n")
    assert len({tuple(ids) for ids in begins}) == 8
