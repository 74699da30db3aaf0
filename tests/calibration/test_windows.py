# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""windows.py: whole windows, spread evenly, that begin as the model's texts begin; one rule for all who cut them."""

import pytest
import torch
from calibration_texts import CharacterTokenizer

from vecinfer_hf.calibration.special_tokens import bos_prefix
from vecinfer_hf.calibration.windows import calibration_windows, spread_windows, text_windows
from vecinfer_hf.errors import ConfigError


PLAIN, WITH_BOS = CharacterTokenizer(), CharacterTokenizer(bos=True)


def test_windows_are_whole_and_shared_out_in_proportion():
    windows, record = calibration_windows(PLAIN, {"a": "ab" * 300, "b": "c" * 90}, 100, 10_000)
    assert windows.shape == (6, 100)
    assert [entry["windows"] for entry in record] == [6, 0]
    few, record = calibration_windows(PLAIN, {"a": "ab" * 500, "b": "c" * 500}, 100, 399)
    assert few.shape == (3, 100)
    assert [entry["windows"] for entry in record] == [2, 1]
    assert [entry["tokens"] for entry in record] == [1000, 500]
    one, _ = calibration_windows(PLAIN, "d" * 300, 100, 1)
    assert one.shape == (1, 100)


def test_no_window_holds_parts_of_two_texts():
    windows, _ = calibration_windows([torch.full((150,), 5), torch.full((250,), 6)], None, 100, 10**6)
    assert [set(row.tolist()) for row in windows] == [{5}, {6}, {6}]


def test_windows_are_spread_over_the_text():
    ids = torch.arange(1000)
    assert spread_windows(ids, [], 100, 10).flatten().tolist() == list(range(1000))
    assert spread_windows(ids, [], 100, 4)[:, 0].tolist() == [0, 200, 500, 700]
    with_prefix = spread_windows(ids, [7], 101, 3)
    assert with_prefix[:, 0].tolist() == [7, 7, 7]
    assert with_prefix[:, 1].tolist() == [0, 300, 600]


@pytest.mark.parametrize("tokenizer", [PLAIN, WITH_BOS], ids=["plain", "bos"])
def test_calibration_and_measurement_cut_a_text_alike(tokenizer):
    text = "".join(chr(97 + index % 26) for index in range(1234))
    windows, _ = calibration_windows(tokenizer, text, 100, 500)
    assert torch.equal(windows, text_windows(tokenizer, text, 100, 5))
    prefix = bos_prefix(tokenizer)
    assert prefix == ([1] if tokenizer.bos else [])
    assert (windows[:, 0] == 1).all() == tokenizer.bos
    assert not (windows[:, len(prefix) :] == 1).any()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    for row in windows[:, len(prefix) :].tolist():
        assert any(ids[start : start + len(row)] == row for start in range(len(ids)))
    assert len(text_windows(tokenizer, text, 100)) == 1234 // (100 - len(prefix))


def test_a_tokenizer_without_beginning_of_text_has_no_prefix():
    assert bos_prefix(lambda text, **_: {"input_ids": []}) == []
    assert bos_prefix(lambda text, **_: {"input_ids": [3]}) == []


def test_short_texts_say_how_many_tokens_there_are_and_are_needed():
    with pytest.raises(ConfigError, match=r"140 tokens \(longest text 100\), but one window needs 120"):
        calibration_windows(PLAIN, ["x" * 40, "y" * 100], 120, 1000)
    with pytest.raises(ConfigError, match="40 tokens, but one window needs 120"):
        text_windows(PLAIN, "x" * 40, 120)
    # A window of the beginning-of-text token alone holds no text.
    with pytest.raises(ConfigError, match="one window needs 1"):
        calibration_windows(WITH_BOS, "x" * 40, 1, 1000)
