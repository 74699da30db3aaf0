# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Special tokens in calibration text: where they stand, which ones, and who reads them."""

import sys

import pytest
import torch
from tiny_models import tiny_model
from transformers import AutoTokenizer

from vecinfer_hf import VecInferConfig
from vecinfer_hf.calibration.mixture import text_mixture
from vecinfer_hf.calibration.special_tokens import SHARE, separator_ids, with_separators


class Tokenizer:
    """A tokenizer with a token for every character and three special tokens, two of them the same."""

    bos_token_id, eos_token_id, pad_token_id, unk_token_id = None, 90, 91, 90

    def __call__(self, text, **_):
        return {"input_ids": [ord(letter) % 89 for letter in text]}


WINDOWS = torch.full((200, 2048), 5)
IDS = [90, 91]


def test_a_share_of_the_windows_has_one_kind_of_separator_each():
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
def test_any_number_of_windows_has_its_share(count):
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


def test_no_share_and_no_ids_leave_text_as_it_is():
    for ids, share in ((IDS, 0), ([], 1)):
        assert torch.equal(with_separators(WINDOWS, ids, share), WINDOWS)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_out_of_range_is_refused(share):
    for ids in (IDS, []):
        with pytest.raises(ValueError, match=f"separators is {share}; it is a share of the windows, from 0 to 1"):
            with_separators(WINDOWS, ids, share)


def test_only_ids_that_the_model_has_count():
    class Odd(Tokenizer):
        eos_token_id, pad_token_id, unk_token_id = [7, 8], 97, 3

    assert separator_ids(Tokenizer(), 97) == [90, 91]
    assert separator_ids(Odd(), 97) == [3]
    assert separator_ids(None, 97) == []


@pytest.mark.realmodel
def test_the_separators_of_a_real_tokenizer(smollm2_path):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    ids = separator_ids(tokenizer, 49152)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def test_everything_that_is_read_has_its_share():
    text = text_mixture(WINDOWS[:16], Tokenizer(), 0.5, 0, IDS, 0.25)

    def share(rows):
        return sum(bool((row >= 90).any()) for row in rows) / len(rows)

    assert share(text.all_windows()) == share(text.some_windows(8)) == share(text.some_pieces(12)) == 0.25
    draw = text.drawing(4, seed=1)
    batches = [draw(step) for step in range(60)]
    assert all(share(batch) == 0.25 for batch in batches if len(batch) == 4)
    places = {int((batch >= 90).any(1).nonzero()[0]) for batch in batches if len(batch) == 4}
    assert len(places) == 4, "always the same row of a batch"
    assert text_mixture(WINDOWS[:16], Tokenizer(), 0.5, 0, [], 0.25).separators == 0


OPTIONS = {"sequence_length": 256, "residual_length": 16, "key_bits": 1, "value_bits": 1, "num_samples": 256,
           "num_iterations": 1}  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "separators", "share"),
    [("default", None, SHARE), ("default", 0.0, 0.0), ("paper", None, 0.0), ("paper", 1.0, 1.0)],
)
def test_calibration_reads_its_share_of_separators(monkeypatch, recipe, separators, share):
    module, read = sys.modules["vecinfer_hf.calibration.calibrate"], []
    name = "record_gradients" if recipe == "default" else "record_states"
    record = getattr(module, name)

    def recording(model, windows, *args, **options):
        read.append(windows)
        return record(model, windows, *args, **options)

    monkeypatch.setattr(module, name, recording)
    codebook = module.calibrate(
        tiny_model(),
        Tokenizer(),
        "abc " * 1024,
        VecInferConfig(recipe=recipe, **OPTIONS),
        separators=separators,
        progress=False,
    )
    assert codebook.provenance["separators"] == share
    (windows,) = read
    assert len(windows) == 16
    assert sum(bool((row >= 89).any()) for row in windows) == 16 * share


@pytest.mark.parametrize("source", ["ids", "no special tokens"])
def test_separators_that_cannot_be_are_announced(monkeypatch, source):
    class Plain(Tokenizer):
        eos_token_id = pad_token_id = unk_token_id = None

    module, said = sys.modules["vecinfer_hf.calibration.calibrate"], []
    monkeypatch.setattr(module.logger, "warning_once", said.append)
    text = "abc " * 1024
    given = (torch.tensor(Tokenizer()(text)["input_ids"]), None) if source == "ids" else (Plain(), text)
    codebook = module.calibrate(tiny_model(), *given, VecInferConfig(**OPTIONS), separators=0.5, progress=False)
    assert codebook.provenance["separators"] == 0
    assert any("separators=0.5 has no effect" in line for line in said)
