# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Codes in pages: every operator gives bit for bit what it gives on contiguous codes, and touches no other page."""

from __future__ import annotations

import cases
import pytest
import torch
from cases import int32
from decode_cases import Cache


pytestmark = pytest.mark.gpu
TILES_PER_PAGE = [1, 2, 3, 8]


class Pages:
    """Contiguous codes `[B, Hkv, tiles, bytes]` dealt to shuffled pages, beside pages that belong to nobody."""

    def __init__(self, codes: torch.Tensor, tiles_per_page: int):
        batch, heads, tiles, size = codes.shape
        count = -(-tiles // tiles_per_page)
        self.tiles = tiles
        self.codes = torch.randint(
            0, 256, (batch * count + 5, heads, tiles_per_page, size), device=cases.DEVICE
        ).byte()
        numbers = torch.randperm(len(self.codes), device=cases.DEVICE)[: batch * count]
        self.numbers = numbers.view(batch, count)
        padded = torch.cat([codes, codes.new_zeros(batch, heads, count * tiles_per_page - tiles, size)], 2)
        self.codes[numbers] = padded.view(batch, heads, count, tiles_per_page, size).transpose(1, 2).flatten(0, 1)
        # Entries behind a row's last page may hold anything.
        junk = torch.full((batch, 2), -(10**9), device=cases.DEVICE)
        self.table = torch.cat([self.numbers, junk], 1).int().contiguous()

    def contiguous(self) -> torch.Tensor:
        """Return what the rows' pages hold now, `[B, Hkv, tiles, bytes]`."""
        return self.codes[self.numbers].transpose(1, 2).flatten(2, 3)[:, :, : self.tiles]

    def others(self) -> torch.Tensor:
        """Return the pages that belong to nobody."""
        mine = torch.zeros(len(self.codes), dtype=torch.bool, device=cases.DEVICE)
        mine[self.numbers.flatten()] = True
        return self.codes[~mine].clone()


@pytest.fixture(params=["", "portable", "general"])
def path(request, monkeypatch):
    """Choose the fastest path of the machine or a slower one."""
    if request.param:
        monkeypatch.setenv("VECINFER_DECODE_PATH", request.param)


def decode(kernel, cache: Cache, pages: Pages, num_splits: int = 0):
    query, _, _, *others = cache.arguments(num_splits)
    return kernel.decode_attention(query, pages.codes, pages.table, *others)


@pytest.mark.kernels_ci
@pytest.mark.parametrize("tiles_per_page", TILES_PER_PAGE)
@pytest.mark.parametrize("group", [1, 4, 8, 16])
def test_decode_attention(kernel, path, tiles_per_page, group):
    cache = Cache([0, 4, 133, 164, 777, 3001, 20000], group=group, tiles=640)
    pages = Pages(cache.codes, tiles_per_page)
    for num_splits in (0, 1, 3):
        for found, expected in zip(
            decode(kernel, cache, pages, num_splits), cache.run(kernel, num_splits), strict=True
        ):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("bits", ["d4b8x2", "d8b8", "d8b12"])
def test_decode_attention_of_other_formats(kernel, bits):
    cache = Cache([133, 3001], key=bits, value=bits, head_dim=64, transform="full", value_transform="full")
    pages = Pages(cache.codes, 2)
    for found, expected in zip(decode(kernel, cache, pages), cache.run(kernel), strict=True):
        assert torch.equal(found, expected)


def test_rows_share_pages(kernel, path):
    cache = Cache([900, 900, 900])
    cache.codes[1:] = cache.codes[:1]
    pages = Pages(cache.codes, 4)
    pages.table[1:, :4] = pages.table[:1, :4]
    for found, expected in zip(decode(kernel, cache, pages), cache.run(kernel), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("tiles_per_page", TILES_PER_PAGE)
@pytest.mark.parametrize("bits", ["d4b8", "d8b12"])
def test_quantize_and_append(kernel, tiles_per_page, bits):
    codebook = cases.random_codebook(2, 128, bits, bits)
    codes = cases.random_codes(2, 2, 9, codebook, 128)
    pages = Pages(codes, tiles_per_page)
    others = pages.others()
    states = torch.randn(2, 2, 150, 128, device=cases.DEVICE).to(torch.bfloat16)
    place = int32(0, 45), int32(150, 120), int32(0, 30)
    weights = cases.write_args(codebook)
    kernel.quantize(states, states, codes, None, *place, *weights)
    kernel.quantize(states, states, pages.codes, pages.table, *place, *weights)
    assert torch.equal(pages.contiguous(), codes)
    exact = [torch.randn(2, 2, n, 128, device=cases.DEVICE).to(torch.bfloat16) for n in (4, 4, 16, 16)]
    lengths, quantized = int32(170, 184), int32(150, 164)
    for target, table in ((codes, None), (pages.codes, pages.table)):
        kernel.append(
            states[:, :, :7], states[:, :, :7], target, table, *(part.clone() for part in exact), lengths.clone(),
            quantized.clone(), *weights,
        )  # fmt: skip
    assert torch.equal(pages.contiguous(), codes)
    assert torch.equal(pages.others(), others)


@pytest.mark.parametrize("tiles_per_page", TILES_PER_PAGE)
def test_dequantize(kernel, tiles_per_page):
    codebook = cases.random_codebook(2, 128, value_transform="full", means=True)
    codes = cases.random_codes(3, 2, 9, codebook, 128)
    pages = Pages(codes, tiles_per_page)
    rest = (*cases.read_args(codebook), 128, 37, 200, torch.float32)
    found = kernel.dequantize(pages.codes, pages.table, *rest)
    for got, expected in zip(found, kernel.dequantize(codes, None, *rest), strict=True):
        assert torch.equal(got, expected)


def test_refusals(kernel):
    cache = Cache([500])
    pages = Pages(cache.codes, 2)
    pages.table = pages.table.long()
    with pytest.raises(RuntimeError, match="block_table is int64, but it must be int32"):
        decode(kernel, cache, pages)
    pages.table = pages.table.int().repeat(2, 1)
    with pytest.raises(RuntimeError, match=r"block_table has shape \[2, .* but \[1, \*\] is needed"):
        decode(kernel, cache, pages)
    pages.table = int32(0).expand(1, 40000).contiguous()
    with pytest.raises(RuntimeError, match="at most 65536 tiles"):
        decode(kernel, cache, pages)
