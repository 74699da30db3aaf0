# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Codes in pages: the reference's operators do with a block table what they do with contiguous codes."""

import pytest
import torch
from cache_oracle import decode_attention as oracle
from cache_oracle import empty_buffers
from tiny_codebooks import random_layer

from vecinfer_hf.errors import UnsupportedCallError
from vecinfer_hf.ops import reference
from vecinfer_hf.ops.placement import store_tokens
from vecinfer_hf.ops.types import PagedBuffers


SINKS, RING = 4, 8
LENGTHS = [150, 7, 100]
FREE = 5
"""Pages that belong to no row."""


def paged_like(buffers, tiles_per_page, fill=255):
    """Buffers with the same contents in shuffled pages, and of each tile of each row the page and the place in it."""
    rows, heads, tiles, size = buffers.codes.shape
    pages = -(-tiles // tiles_per_page)
    generator = torch.Generator().manual_seed(tiles_per_page)
    order = torch.randperm(rows * pages + FREE, generator=generator)[: rows * pages].view(rows, pages)
    codes = torch.full((rows * pages + FREE, heads, tiles_per_page, size), fill, dtype=torch.uint8)
    for row in range(rows):
        for tile in range(tiles):
            codes[order[row, tile // tiles_per_page], :, tile % tiles_per_page] = buffers.codes[row, :, tile]
    return PagedBuffers(codes, *(tensor.clone() for tensor in buffers[1:]), order.to(torch.int32))


def unpaged(buffers, tiles):
    """The contiguous codes of paged buffers, tile by tile."""
    per_page = buffers.codes.shape[2]
    table = buffers.block_table.tolist()
    rows = [
        torch.stack([buffers.codes[row[t // per_page], :, t % per_page] for t in range(tiles)], 1) for row in table
    ]
    return torch.stack(rows)


@pytest.fixture
def codebook():
    return random_layer(2, 16, "d4b8", "d8b8", mean=True, value_dim=32)


def states(batch, tokens):
    return torch.randn(batch, 2, tokens, 16), torch.randn(batch, 2, tokens, 32)


def stored(codebook):
    """Contiguous and empty buffers, and what is stored in them."""
    buffers = empty_buffers(codebook, len(LENGTHS), SINKS, RING, max(LENGTHS) + 32, fill=255, value_dim=32)
    return buffers, states(len(LENGTHS), max(LENGTHS))


@pytest.mark.parametrize("tiles_per_page", [1, 2, 4])
def test_store_append_attend_and_dequantize(codebook, tiles_per_page):
    contiguous, new = stored(codebook)
    paged = paged_like(contiguous, tiles_per_page)
    zeros = [0] * len(LENGTHS)
    for buffers in (contiguous, paged):
        store_tokens(*new, zeros, LENGTHS, zeros, zeros, buffers, codebook, reference.quantize)
    for _ in range(3):
        one = states(len(LENGTHS), 1)
        for buffers in (contiguous, paged):
            reference.append(*one, buffers, codebook)
    assert torch.equal(unpaged(paged, contiguous.codes.shape[2]), contiguous.codes)
    untouched = sorted(set(range(len(paged.codes))) - set(paged.block_table.flatten().tolist()))
    assert len(untouched) == FREE
    assert (paged.codes[untouched] == 255).all()
    for first, second in zip(contiguous[1:7], paged[1:7], strict=True):
        assert torch.equal(first, second)
    query = torch.randn(len(LENGTHS), 4, 2, 16)
    for first, second in zip(
        reference.decode_attention(query, contiguous, codebook, 0.25),
        reference.decode_attention(query, paged, codebook, 0.25),
        strict=True,
    ):
        assert torch.equal(first, second)
    for start, length in ((0, 138), (30, 70), (64, 1), (5, 0)):
        for first, second in zip(
            reference.dequantize(contiguous, codebook, start, length, torch.float32),
            reference.dequantize(paged, codebook, start, length, torch.float32),
            strict=True,
        ):
            assert torch.equal(first, second)


def test_attention_against_the_oracle(codebook):
    contiguous, new = stored(codebook)
    paged = paged_like(contiguous, 2)
    zeros = [0] * len(LENGTHS)
    store_tokens(*new, zeros, LENGTHS, zeros, zeros, paged, codebook, reference.quantize)
    # What stands behind a row's last page is not looked at.
    paged.block_table[1, 0] = -1
    paged.block_table[2, 2:] = torch.tensor([-7, 10**6, 3])[: paged.block_table.shape[1] - 2]
    query = torch.randn(len(LENGTHS), 4, 1, 16)
    got, lse = reference.decode_attention(query, paged, codebook, 0.25)
    wanted, wanted_lse, bound, lse_bound = oracle(query, paged, codebook, RING, 0.25)
    assert (got - wanted).abs().max() <= bound
    assert (lse - wanted_lse).abs().max() <= lse_bound


def test_rows_may_share_a_page(codebook):
    """Two requests with the same first 64 tokens behind the sinks read one page for both."""
    buffers = empty_buffers(codebook, 2, 0, RING, 96, fill=255, value_dim=32)
    keys, values = states(1, 96)
    other = states(1, 96)
    both = [torch.cat([mine, mine], 0) for mine in (keys, values)]
    for mine, theirs in zip(both, other, strict=True):
        mine[1, :, 64:] = theirs[0, :, 64:]
    zeros = [0, 0]
    store_tokens(*both, zeros, [96, 96], zeros, zeros, buffers, codebook, reference.quantize)
    paged = paged_like(buffers, 2)
    paged.block_table[1, 0] = paged.block_table[0, 0]
    query = torch.randn(2, 4, 1, 16)
    for first, second in zip(
        reference.decode_attention(query, buffers, codebook, 0.25),
        reference.decode_attention(query, paged, codebook, 0.25),
        strict=True,
    ):
        assert torch.equal(first, second)


def test_a_row_without_a_page_is_refused_before_codes_are_written(codebook):
    contiguous, new = stored(codebook)
    paged = paged_like(contiguous, 2)
    paged.block_table[0, 1] = -1
    before = paged.codes.clone()
    zeros = [0] * len(LENGTHS)
    with pytest.raises(UnsupportedCallError, match=r"block_table names page -1 .* rows \[0\].* give a row its pages"):
        store_tokens(*new, zeros, [150, 0, 0], zeros, zeros, paged, codebook, reference.quantize)
    assert torch.equal(paged.codes, before)


@pytest.mark.parametrize("tiles_per_page", [None, 1, 2])
def test_more_tokens_than_there_is_room_for_are_refused(codebook, tiles_per_page):
    buffers = empty_buffers(codebook, 1, 0, 0, 64, fill=255, value_dim=32)
    buffers = buffers if tiles_per_page is None else paged_like(buffers, tiles_per_page)
    before = buffers.codes.clone()
    with pytest.raises(UnsupportedCallError, match="Tile 2 is asked for, but a row has room for 2 tiles"):
        store_tokens(*states(1, 65), [0], [65], [0], [0], buffers, codebook, reference.quantize)
    assert torch.equal(buffers.codes, before)
    with pytest.raises(UnsupportedCallError, match="a row has room for 2 tiles"):
        reference.dequantize(buffers, codebook, 60, 5, torch.float32)
