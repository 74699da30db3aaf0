# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""ops/blockwise.py: the running softmax equals a plain one however the keys are cut."""

import pytest
import torch

from vecinfer_hf.ops import blockwise
from vecinfer_hf.ops.blockwise import Block, blockwise_attention, cache_blocks
from vecinfer_hf.ops.types import CacheBuffers


EPS = torch.finfo(torch.float32).eps


def plain(query, keys, values, token_index, query_index, scale, softcap=0.0, sinks=None):
    """Float64 softmax over everything at once."""
    group = query.shape[1] // keys.shape[1]
    keys, values = keys.double().repeat_interleave(group, 1), values.double().repeat_interleave(group, 1)
    scores = query.double() @ keys.transpose(-1, -2) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    seen = (token_index[:, None, None] >= 0) & (token_index[:, None, None] <= query_index[:, None, :, None])
    scores = scores.masked_fill(~seen, -torch.inf)
    if sinks is not None:
        column = sinks.double().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], -1)
        values = torch.cat([values, torch.zeros_like(values[:, :, :1])], 2)
    return scores.softmax(-1).nan_to_num() @ values, scores.logsumexp(-1)


def tolerance(query, keys, values, scale):
    """D-term float32 scores, twice that in the weights, one rounding per token in the sums."""
    score = scale * query.norm(dim=-1).max() * keys.norm(dim=-1).max() * EPS * (query.shape[-1] + 4)
    return ((2 * score + (keys.shape[2] + 8) * EPS) * values.norm(dim=-1).max()).item(), (score + 64 * EPS).item()


def problem(tokens=37, queries=5):
    query = torch.randn(2, 4, queries, 16)
    keys, values = torch.randn(2, 2, 2, tokens, 16)
    index = torch.stack([torch.randperm(tokens), torch.randperm(tokens) - 6])
    query_index = torch.arange(tokens - queries, tokens).expand(2, -1)
    return query, keys, values, index, query_index


@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("cuts", [[37], [1] * 37, [5, 20, 12], [36, 1]], ids=["one", "singles", "three", "last"])
def test_any_cut_gives_the_plain_softmax(cuts, with_sinks, softcap):
    query, keys, values, index, query_index = problem()
    sinks = torch.randn(4) if with_sinks else None
    parts = zip(keys.split(cuts, 2), values.split(cuts, 2), index.split(cuts, 1), strict=True)
    output, lse = blockwise_attention(query, (Block(*part) for part in parts), query_index, 0.25, softcap, sinks)
    wanted, wanted_lse = plain(query, keys, values, index, query_index, 0.25, softcap, sinks)
    bound, lse_bound = tolerance(query, keys, values, 0.25)
    assert (output - wanted).abs().max() <= bound
    assert (lse - wanted_lse).abs().max() <= lse_bound


def test_large_blocks_are_cut_inside(monkeypatch):
    query, keys, values, index, query_index = problem()
    block = [Block(keys, values, index)]
    whole = blockwise_attention(query, block, query_index, 0.25)
    monkeypatch.setattr(blockwise, "SCORE_ELEMENTS", 2 * 4 * 5 * 7)
    pieces = blockwise_attention(query, block, query_index, 0.25)
    bound, lse_bound = tolerance(query, keys, values, 0.25)
    assert (whole[0] - pieces[0]).abs().max() <= 2 * bound
    assert (whole[1] - pieces[1]).abs().max() <= 2 * lse_bound


def test_a_query_that_sees_nothing_gets_zero_and_minus_infinity():
    query, keys, values, index, query_index = problem()
    for blocks in ([], [Block(keys, values, torch.full_like(index, -1))], [Block(keys, values, index + 100)]):
        output, lse = blockwise_attention(query, blocks, query_index, 0.25)
        assert not output.any()
        assert (lse == -torch.inf).all()


def test_a_block_nobody_sees_changes_nothing():
    query, keys, values, index, query_index = problem()
    hidden = Block(keys * 1e10, values * 1e10, torch.full_like(index, -1))
    alone = blockwise_attention(query, [Block(keys, values, index)], query_index, 0.25)
    for blocks in ([hidden, Block(keys, values, index)], [Block(keys, values, index), hidden]):
        for first, second in zip(alone, blockwise_attention(query, blocks, query_index, 0.25), strict=True):
            assert torch.equal(first, second)


@pytest.mark.parametrize("coded", [0, 1, 10, 25])
def test_blocks_of_a_cache_name_every_token_once(monkeypatch, coded):
    """Sinks, codes and ring together hold the tokens 0 .. length - 1, each in one place."""
    monkeypatch.setattr(blockwise, "CODE_BLOCK", 7)
    lengths = torch.tensor([4 + coded + 8, 4 + coded + 3, 2], dtype=torch.int32)
    quantized = torch.tensor([coded, coded, 0], dtype=torch.int32)
    buffers = CacheBuffers(
        torch.zeros(3, 1, 1, 1, dtype=torch.uint8), *torch.zeros(2, 3, 1, 4, 16), *torch.zeros(2, 3, 1, 8, 16),
        lengths, quantized,
    )  # fmt: skip
    read = []

    def read_codes(start, length):
        read.append((start, length))
        return torch.zeros(3, 1, length, 16), torch.zeros(3, 1, length, 16)

    blocks = list(cache_blocks(buffers, read_codes, coded))
    assert all(block.keys.shape[2] == block.token_index.shape[1] for block in blocks)
    assert read == [(start, min(7, coded - start)) for start in range(0, coded, 7)]
    index = torch.cat([block.token_index.expand(3, -1) for block in blocks], dim=1)
    for row in range(3):
        seen = sorted(index[row][index[row] >= 0].tolist())
        assert seen == list(range(int(lengths[row])))


@pytest.mark.parametrize("capacity", [1, 3, 5])
def test_a_ring_that_is_still_growing(capacity):
    """C < R: slot j holds token n = j only."""
    buffers = CacheBuffers(
        torch.zeros(1, 1, 0, 1, dtype=torch.uint8), *torch.zeros(2, 1, 1, 0, 16), *torch.zeros(2, 1, 1, capacity, 16),
        torch.tensor([capacity], dtype=torch.int32), torch.tensor([0], dtype=torch.int32),
    )  # fmt: skip
    (block,) = cache_blocks(buffers, None, 0)
    assert block.token_index.tolist() == [list(range(capacity))]
