# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""mixture.py: each step reads the kinds of windows in the fractions that were asked for."""

import pytest
import torch
from calibration_texts import CharacterTokenizer, WordTokenizer, random_text, small_config
from tiny_models import tiny_model

from vecinfer_hf import calibrate
from vecinfer_hf.calibration import steps
from vecinfer_hf.calibration.mixture import PIECE_LENGTH, text_mixture
from vecinfer_hf.calibration.retrieval_text import MIN_LENGTH
from vecinfer_hf.errors import ConfigError


def ordinary(count, length, start=1000):
    return torch.arange(start, start + count * length).view(count, length)


def kinds(rows, windows):
    """How many rows are ordinary text: no token of a fact has a number so large."""
    return sum(int(row.min() >= windows.min()) for row in rows)


def test_a_mixture_has_the_share_it_was_asked_for():
    windows = ordinary(12, 2 * PIECE_LENGTH)
    text = text_mixture(windows, WordTokenizer(), 0.25, seed=0)
    assert text.retrieval_fraction == 0.25
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
    rows = text_mixture(windows, WordTokenizer(), share, seed=0).some_windows(1000)
    assert kinds(rows, windows) == count
    # Whole windows: off by less than one, or 64 windows with facts, the most that are made.
    assert abs(len(rows) - count - min(64, share / (1 - share) * count)) < 1


def test_facts_come_behind_the_beginning_of_text():
    windows = ordinary(1, 1024)
    windows[:, 0] = 1
    for row in text_mixture(windows, WordTokenizer(bos=True), 0.9, seed=0).retrieval_windows:
        assert row[0] == 1
        assert not (row[1:] == 1).any()


@pytest.mark.parametrize(
    ("tokenizer", "fraction", "length"),
    [(None, 0.5, 1024), (WordTokenizer(), 0.0, 1024), (WordTokenizer(), 0.5, MIN_LENGTH - 1)],
)
def test_without_tokenizer_fraction_or_room_all_text_is_ordinary(tokenizer, fraction, length):
    windows = ordinary(5, length)
    text = text_mixture(windows, tokenizer, fraction, seed=0)
    assert text.retrieval_fraction == 0
    assert kinds(text.some_windows(5), windows) == 5
    assert kinds(torch.cat([text.drawing(2, 0)(step) for step in range(12)]), windows) == 24


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_retrieval_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ConfigError, match=f"retrieval_fraction is {fraction}"):
        text_mixture(ordinary(2, 1024), WordTokenizer(), fraction, seed=0)


def test_everything_that_is_read_has_its_separators():
    text = text_mixture(torch.full((16, 2048), 5), CharacterTokenizer(), 0.5, 0, [90, 91], 0.25)

    def share(rows):
        return sum(bool((row >= 90).any()) for row in rows) / len(rows)

    assert share(text.all_windows()) == share(text.some_windows(8)) == share(text.some_pieces(12)) == 0.25
    draw = text.drawing(4, seed=1)
    batches = [draw(step) for step in range(60)]
    assert all(share(batch) == 0.25 for batch in batches if len(batch) == 4)
    places = {int((batch >= 90).any(1).nonzero()[0]) for batch in batches if len(batch) == 4}
    assert len(places) == 4, "always the same row of a batch"
    assert text_mixture(torch.full((16, 2048), 5), CharacterTokenizer(), 0.5, 0, [], 0.25).separator_fraction == 0


@pytest.mark.parametrize(
    ("recipe", "options", "fractions"),
    [("default", {}, (0.5, 0.25)), ("default", {"retrieval_fraction": 0, "separator_fraction": 0}, (0, 0)),
     ("paper", {}, (0, 0)), ("paper", {"separator_fraction": 1}, (0, 1))],
)  # fmt: skip
def test_calibration_reads_the_fractions_that_its_config_names(monkeypatch, recipe, options, fractions):
    name, read = "record_gradients" if recipe == "default" else "record_states", []
    record = getattr(steps, name)

    def recording(model, windows, *args, **kwargs):
        read.append(windows)
        return record(model, windows, *args, **kwargs)

    monkeypatch.setattr(steps, name, recording)
    config = small_config(recipe=recipe, sequence_length=MIN_LENGTH, num_tokens=8 * MIN_LENGTH, key_bits=1,
                          value_bits=1, num_samples=256, num_iterations=1, **options)  # fmt: skip
    text = random_text(8 * MIN_LENGTH)
    codebook = calibrate(tiny_model(), CharacterTokenizer(), text, config, progress=False)
    assert (codebook.config.retrieval_fraction, codebook.config.separator_fraction) == fractions
    (windows,) = read
    separated = sum(bool(((row >= 90) | (row == 1)).any()) for row in windows)
    assert separated == len(windows) * fractions[1]
    # Few tokens of the text are lost to separators.
    ordinary_rows = torch.tensor(CharacterTokenizer()(text)["input_ids"]).view(8, MIN_LENGTH)
    known = sum(any((row == other).float().mean() > 0.9 for other in ordinary_rows) for row in windows)
    assert known == len(windows) * (1 - fractions[0])
