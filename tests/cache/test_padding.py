# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""padding.py: a mask is honoured exactly or refused."""

import copy

import pytest
import torch

from vecinfer_hf.cache.padding import Padding, UnsupportedMaskError


def causal_mask(real, queries):
    """The 4-D mask transformers makes of a 2-D one `[B, T]` for the last `queries` columns: bool `[B, 1, Tq, T]`."""
    real = torch.as_tensor(real).bool()
    total = real.shape[1]
    causal = torch.ones(queries, total, dtype=torch.bool).tril(total - queries)
    return (causal & real.unsqueeze(1)).unsqueeze(1)


LEFT = [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]]


def test_no_mask_means_all_real():
    padding = Padding()
    assert padding.observe(None, 2, 0, 5) is None
    assert padding.columns is None
    assert padding.valid_tokens(1, 4, 2) == [3, 3]


def test_left_padding_is_read_and_remembered():
    padding = Padding()
    real = padding.observe(causal_mask(LEFT, 5), 3, 0, 5)
    assert real.tolist() == torch.tensor(LEFT).bool().tolist()
    assert padding.columns.tolist() == real.tolist()
    assert padding.valid_tokens(0, 5, 3) == [3, 5, 1]
    assert padding.valid_tokens(3, 5, 3) == [2, 2, 1]


def test_later_columns_that_are_all_real_need_no_mention():
    padding = Padding()
    padding.observe(causal_mask(LEFT, 5), 3, 0, 5)
    longer = [row + [1, 1] for row in LEFT]
    assert padding.observe(causal_mask(longer, 2), 3, 5, 2) is None
    assert padding.columns.shape == (3, 7)
    assert padding.valid_tokens(5, 7, 3) == [2, 2, 2]


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_padding_may_go_on_into_a_second_chunk(cut):
    padding = Padding()
    padding.observe(causal_mask([row[:cut] for row in LEFT], cut), 3, 0, cut)
    new = padding.observe(causal_mask(LEFT, 5 - cut), 3, cut, 5 - cut)
    wanted = torch.tensor(LEFT)[:, cut:].bool()
    assert (new is None and wanted.all()) or torch.equal(new, wanted)
    assert padding.valid_tokens(0, 5, 3) == [3, 5, 1]


def test_right_padding_of_a_first_forward_is_read():
    padding = Padding()
    real = padding.observe(causal_mask([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], 5), 2, 0, 5)
    assert real.sum(1).tolist() == [3, 5]


def test_additive_masks_are_read_like_boolean_ones():
    mask = causal_mask(LEFT, 5)
    additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    boolean, floating = Padding(), Padding()
    assert torch.equal(boolean.observe(mask, 3, 0, 5), floating.observe(additive, 3, 0, 5))


def test_one_row_stands_for_all_rows():
    padding = Padding()
    real = padding.observe(causal_mask([[0, 1, 1]], 3), 4, 0, 3)
    assert real.shape == (4, 3)
    assert padding.valid_tokens(0, 3, 4) == [2] * 4


def test_a_padding_querys_own_row_may_hold_anything():
    mask = causal_mask([[0, 0, 1, 1]], 4)
    mask[:, :, :2] = True
    assert Padding().observe(mask, 1, 0, 4).tolist() == [[False, False, True, True]]


def test_a_mask_wider_than_what_is_stored():
    """A static cache's mask covers places that hold nothing yet."""
    mask = torch.nn.functional.pad(causal_mask(LEFT, 5), (0, 11))
    assert Padding().observe(mask, 3, 0, 5, mask.shape[3]).sum(1).tolist() == [3, 5, 1]


def bias(mask):
    additive = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    additive[:, :, 4, 1] = -0.5
    return additive


def packed(mask):
    mask = mask.clone()
    mask[:, :, 3:, :3] = False
    return mask


def bidirectional(mask):
    mask = mask.clone()
    mask[:, :, 1:4, 1:4] = True
    return mask


def sliding(mask):
    return mask & torch.ones_like(mask).triu(-2)


@pytest.mark.parametrize("change", [bidirectional, packed, sliding, bias])
def test_a_first_call_may_have_any_mask(change):
    """It attends by the mask itself; every column that some query sees is a token, and later calls are causal."""
    padding = Padding()
    assert padding.observe(change(causal_mask(torch.ones(2, 6), 6)), 2, 0, 6) is None
    assert padding.observe(causal_mask(torch.ones(2, 8), 2), 2, 6, 2) is None


@pytest.mark.parametrize("change", [bidirectional, packed, sliding])
def test_padding_is_found_in_any_first_mask(change):
    valid = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    mask = change(causal_mask(valid, 7)) & valid.bool()[:, None, None]
    # A padding query's own row may hold anything.
    mask[0, :, :2] = True
    assert torch.equal(Padding().observe(mask, 2, 0, 7), valid.bool())


@pytest.mark.parametrize("change", [bidirectional, packed, sliding, bias])
def test_behind_stored_tokens_masks_that_are_not_causal_attention_are_refused(change):
    mask = torch.nn.functional.pad(change(causal_mask(torch.ones(2, 6), 6)), (2, 0), value=True)
    if mask.dtype != torch.bool:
        mask[..., :2] = 0
    padding = Padding()
    padding.observe(causal_mask(torch.ones(2, 2), 2), 2, 0, 2)
    with pytest.raises(UnsupportedMaskError, match="first call only"):
        padding.observe(mask, 2, 2, 6)
    assert padding.columns is None


def test_branches_behind_stored_tokens_are_refused():
    """Two continuations of one text in one forward (a tree): the last query does not see the first branch."""
    padding = Padding()
    padding.observe(causal_mask(torch.ones(1, 4), 4), 1, 0, 4)
    tree = causal_mask(torch.ones(1, 8), 4)
    tree[:, :, 2:, 4:6] = False
    with pytest.raises(UnsupportedMaskError, match="default cache"):
        padding.observe(tree, 1, 4, 4)


@pytest.mark.parametrize("shown", [True, False])
def test_later_padding_queries_may_see_all_or_nothing(shown):
    padding = Padding()
    padding.observe(causal_mask([[0, 1], [1, 1]], 2), 2, 0, 2)
    mask = causal_mask([[0, 1, 0, 1], [1, 1, 1, 1]], 2)
    mask[0, :, 0] = shown
    assert padding.observe(mask, 2, 2, 2).tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize(
    "shape", [(2, 5), (2, 4, 5, 5), (2, 1, 4, 5), (2, 1, 5, 4)], ids=["2d", "heads", "queries", "columns"]
)
def test_masks_of_another_shape_are_refused(shape):
    with pytest.raises(UnsupportedMaskError, match="shape"):
        Padding().observe(torch.ones(shape, dtype=torch.bool), 2, 0, 5)


@pytest.mark.parametrize(
    "later",
    [[[1, 0, 1, 1, 1, 1]], [[0, 0, 1, 1, 1, 1]], [[1, 1, 1, 1, 1, 1]], [[0, 1, 1, 1, 0, 1]]],
    ids=["swapped", "hidden", "shown", "hole"],
)
def test_history_must_not_change(later):
    padding = Padding()
    padding.observe(causal_mask([[0, 1, 1, 1, 1]], 5), 1, 0, 5)
    with pytest.raises(UnsupportedMaskError, match="hides or shows a column"):
        padding.observe(causal_mask(later, 1), 1, 5, 1)
    # The refusal is not remembered: the right mask still works.
    assert padding.observe(causal_mask([[0, 1, 1, 1, 1, 1]], 1), 1, 5, 1) is None


def test_a_padded_cache_needs_its_mask():
    padding = Padding()
    padding.observe(causal_mask(LEFT, 5), 3, 0, 5)
    with pytest.raises(UnsupportedMaskError, match="pass the same attention_mask"):
        padding.observe(None, 3, 5, 1)


def test_the_same_mask_object_is_read_once_but_a_new_one_at_its_address_is_not_confused():
    padding = Padding()
    mask = causal_mask(LEFT, 5)
    first = padding.observe(mask, 3, 0, 5)
    assert padding.observe(mask, 3, 0, 5) is first
    del mask
    other = causal_mask([[1] * 5, [0] + [1] * 4, [1] * 5], 5)
    assert padding.observe(other, 3, 0, 5).sum(1).tolist() == [5, 4, 5]


def test_crop_select_repeat_and_copy():
    padding = Padding()
    padding.observe(causal_mask(LEFT, 5), 3, 0, 5)
    copied = copy.deepcopy(padding)
    padding.repeat(2)
    assert padding.valid_tokens(0, 5, 6) == [3, 3, 5, 5, 1, 1]
    padding.select(torch.tensor([5, 0, 2]))
    assert padding.valid_tokens(0, 5, 3) == [1, 3, 5]
    padding.crop(4)
    assert padding.valid_tokens(0, 4, 3) == [0, 2, 4]
    padding.select(torch.tensor([2]))
    padding.crop(3)
    assert padding.columns is None
    assert copied.valid_tokens(0, 5, 3) == [3, 5, 1]


def test_select_by_a_boolean_mask():
    padding = Padding()
    padding.observe(causal_mask(LEFT, 5), 3, 0, 5)
    padding.select(torch.tensor([True, False, True]))
    assert padding.valid_tokens(0, 5, 2) == [3, 1]


def test_the_same_mask_again_after_a_crop_is_read_again():
    """Assisted decoding crops and comes back; what was remembered of the mask must not outlive the crop."""
    padding = Padding()
    mask = causal_mask(LEFT, 5)
    padding.observe(mask, 3, 0, 5)
    padding.crop(0)
    assert padding.observe(mask, 3, 0, 5).sum(1).tolist() == [3, 5, 1]
    assert padding.valid_tokens(0, 5, 3) == [3, 5, 1]
