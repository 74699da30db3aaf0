# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The mask function: None exactly where a mask would say nothing, transformers' own mask everywhere else."""

import pytest
import torch
from transformers.masking_utils import causal_mask_function, sdpa_mask, sliding_window_causal_mask_function

from vecinfer_hf.attention.masks import NO_OFFSET, vecinfer_mask


PAST, NEW = 6, 4


def both(**changes):
    """Our mask and transformers' for 4 new columns after 6."""
    call = {
        "batch_size": 2,
        "q_length": NEW,
        "kv_length": PAST + NEW,
        "q_offset": PAST,
        "kv_offset": NO_OFFSET,
        "mask_function": causal_mask_function,
        "attention_mask": torch.ones(2, PAST + NEW, dtype=torch.bool),
        **changes,
    }
    return vecinfer_mask(**call), sdpa_mask(**call)


@pytest.mark.parametrize("attention_mask", [None, torch.ones(2, PAST + NEW, dtype=torch.bool)])
@pytest.mark.parametrize("offset", [PAST, torch.tensor(PAST)], ids=["int", "tensor"])
def test_nothing_to_say(attention_mask, offset):
    ours, stock = both(attention_mask=attention_mask, q_offset=offset)
    assert ours is None
    # What is left out is plain causal attention.
    assert torch.equal(stock, torch.ones(NEW, PAST + NEW, dtype=torch.bool).tril(PAST).expand(2, 1, -1, -1))


def test_a_static_cache_is_wider_than_its_tokens():
    ours, stock = both(kv_length=64, q_offset=torch.tensor(PAST))
    assert ours is None
    assert not stock[..., PAST + NEW :].any()


@pytest.mark.parametrize("column", [0, PAST - 1, PAST, PAST + NEW - 1])
def test_padding_anywhere_keeps_the_mask(column):
    mask = torch.ones(2, PAST + NEW, dtype=torch.bool)
    mask[1, column] = False
    ours, stock = both(attention_mask=mask)
    assert torch.equal(ours, stock)
    assert not ours[1, ..., column].any()


def test_a_mask_shorter_than_the_columns_hides_the_rest():
    ours, stock = both(attention_mask=torch.ones(2, PAST + NEW - 1, dtype=torch.bool))
    assert torch.equal(ours, stock)
    assert not ours[..., -1].any()


def test_other_patterns_and_other_caches_are_left_alone():
    ours, stock = both(mask_function=sliding_window_causal_mask_function(3))
    assert torch.equal(ours, stock)
    # A stock cache reports an int, and without its mask a wide query would look at the wrong columns.
    ours, stock = both(kv_offset=0)
    assert torch.equal(ours, stock)


def test_the_offset_counts_as_zero():
    assert NO_OFFSET + 5 == 5
    assert NO_OFFSET == 0
