# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What only the CPU backend has: float32, head sizes up to 512, keys and values of two sizes, pages, threads.

Tolerance of decode_attention: twice the error of plain torch in the same dtype, and a floor for the bytes of the VNNI
path: it takes as many of a float32 query as keep a score's standard error below 2^-11 (query_parts in vnni/keys.h),
and a weight is off by as much, relative to itself. The other paths compute in float32: 2^-19, for another order.
"""

from __future__ import annotations

import math
import random

import cases
import oracle
import pytest
import torch
from cases import int32
from cpu_reference import Call


pytestmark = pytest.mark.cpu
PATHS = ["portable", "avx2", "avx512", "vnni"]
FLOOR = {"vnni": 2.0**-11, "": 2.0**-11}


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    """Each path, or the best one of the machine if that is a lower one."""
    monkeypatch.setenv("VECINFER_CPU_PATH", request.param)
    return request.param


def check(call: Call, kernel, path: str = "", num_splits: int = 0) -> None:
    out, lse = call.run(kernel, num_splits)
    assert out.dtype == call.dtype
    floor = FLOOR.get(path, 2.0**-19)
    for row, length in enumerate(call.lengths):
        if length == 0:
            assert (out[row] == 0).all()
            continue
        expected, expected_lse = call.expected(row)
        seen = expected_lse > -math.inf
        size = expected.norm()
        error = ((out[row].double() - expected).norm() / size).item()
        plain = ((call.plain(row).nan_to_num().double() - expected).norm() / size).item()
        assert error <= 2 * plain + floor, f"row of {length} tokens: error {error:.2e}, plain torch {plain:.2e}"
        torch.testing.assert_close(lse[row][seen].double(), expected_lse[seen], rtol=1e-5, atol=1e-3)
        assert (out[row][~seen] == 0).all()


LENGTHS = [0, 1, 5, 36, 37, 68, 100, 131, 2300]


@pytest.mark.kernels_ci
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dims", [(64, 64), (128, 64), (64, 128), (72, 40), (512, 512), (192, 128), (8, 16)])
def test_head_sizes(kernel, path, dtype, dims):
    call = Call(LENGTHS, key_dim=dims[0], value_dim=dims[1], dtype=dtype, transform="full", value_transform="full")
    check(call, kernel, path)


@pytest.mark.kernels_ci
@pytest.mark.parametrize("tiles_per_page", [1, 3, 4])
def test_pages(kernel, path, tiles_per_page):
    check(Call([2300, 77, 0, 512], tiles_per_page=tiles_per_page, means=True, query_tokens=2), kernel, path)


@pytest.mark.parametrize("fmt", cases.FORMATS)
@pytest.mark.parametrize("group", [1, 2, 4, 5, 17])
def test_formats_and_groups(kernel, path, fmt, group):
    check(Call([900, 300], key=fmt, value=fmt, group=group, means=True, query_tokens=3), kernel, path)


@pytest.mark.parametrize("query_size", [0.01, 4.0, 20.0])
@pytest.mark.parametrize("length", [2084, 2085, 4132, 9001])
def test_blocks_and_sharp_softmax(kernel, path, query_size, length):
    call = Call([length], heads=1, key_dim=128, value_dim=128, query_size=query_size, value_transform="full")
    check(call, kernel, path)


def test_threads_and_splits_agree(kernel, monkeypatch):
    call = Call([9000, 20, 4100], heads=1, means=True)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results += [call.run(kernel, splits) for splits in (0, 1, 7)]
            again = call.run(kernel, 7)
            assert torch.equal(again[0], results[-1][0])
    finally:
        torch.set_num_threads(before)
    for out, lse in results[1:]:
        # Blocks start elsewhere, so weights are rounded to steps of other maxima and with another dither.
        torch.testing.assert_close(out, results[0][0], rtol=1e-3, atol=2e-4)
        torch.testing.assert_close(lse, results[0][1], rtol=1e-5, atol=1e-4)


SEEDS = range(60)


@pytest.mark.parametrize("seed", SEEDS)
def test_fuzz(kernel, monkeypatch, seed):
    """Shapes, lengths, formats, paths and strides at random, seeded."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    path = rng.choice(PATHS)
    monkeypatch.setenv("VECINFER_CPU_PATH", path)
    slots = rng.choice([1, 3, 16, 40, 128])
    sinks = rng.choice([0, 1, 4, 9])
    queries = rng.randint(1, min(16, slots))
    lengths = [rng.choice([0, rng.randint(1, 300), rng.randint(1, 3000)]) for _ in range(rng.randint(1, 3))]
    # After a crop the ring holds fewer tokens than it has slots, but those of this call always.
    quantized = [max(0, length - sinks - rng.randint(queries, slots)) for length in lengths]
    call = Call(
        lengths, heads=rng.randint(1, 3), group=rng.randint(1, 9), query_tokens=queries, slots=slots, sinks=sinks,
        key_dim=8 * rng.randint(1, 20), value_dim=8 * rng.randint(1, 20), key=rng.choice(list(cases.FORMATS)),
        value=rng.choice(list(cases.FORMATS)), dtype=rng.choice([torch.float32, torch.bfloat16, torch.float16]),
        transform=rng.choice(["diagonal", "full"]), value_transform=rng.choice([None, "diagonal", "full"]),
        means=rng.random() < 0.5, softcap=rng.choice([0.0, 0.0, 3.0, 50.0]), sink_logits=rng.random() < 0.3,
        query_size=rng.choice([0.1, 1.0, 5.0]), tiles_per_page=rng.choice([0, 0, 1, 5]), quantized=quantized,
    )  # fmt: skip
    if rng.random() < 0.5:
        wide = [torch.full((*x.shape[:3], x.shape[3] + 5), math.nan, dtype=x.dtype) for x in call.exact]
        for index, (x, whole) in enumerate(zip(call.exact, wide, strict=True)):
            whole[..., 3:-2] = x
            call.exact[index] = whole[..., 3:-2]
    check(call, kernel, path, rng.choice([0, 1, 3]))


def test_pages_are_written_like_contiguous_codes(kernel):
    """quantize and append through a table leave the same tiles; a missing page is refused first."""
    call = Call([300, 200], tiles_per_page=2, slots=16)
    pages, table = call.storage()
    states = [torch.randn(2, 2, 9, 64) for _ in range(2)]
    args = cases.write_args(call.codebook)
    numbers = int32(31, 5), int32(9, 4), int32(0, 2)
    contiguous = call.codes.clone()
    kernel.quantize(*states, contiguous, None, *numbers, *args)
    kernel.quantize(*states, pages, table, *numbers, *args)
    exact = [x.clone() for x in call.exact]
    more = [torch.randn(2, 2, 7, 64) for _ in range(2)]
    lengths, coded = int32(300, 200), int32(*call.quantized)
    kernel.append(*more, pages, table, *exact, lengths, coded, *args)
    assert lengths.tolist() == [307, 207]
    twin = [x.clone() for x in call.exact]
    kernel.append(*more, contiguous, None, *twin, int32(300, 200), int32(*call.quantized), *args)
    for row in range(2):
        for tile in range(contiguous.shape[2]):
            got = pages[table[row, tile // 2].long(), :, tile % 2]
            assert torch.equal(got, contiguous[row, :, tile])
    table[1, 0] = 99
    before = pages.clone()
    with pytest.raises(RuntimeError, match=r"block_table names page 99 for tile 0 of row 1, but there are \d+ pages"):
        kernel.quantize(*states, pages, table, *numbers, *args)
    assert torch.equal(pages, before)


def test_dequantize_pages(kernel):
    call = Call([500, 400], key_dim=72, value_dim=128, tiles_per_page=3, transform="full", value_transform="full")
    args = cases.read_args(call.codebook)
    got = kernel.dequantize(*call.storage(), *args, 128, 33, 200, torch.float32)
    want = kernel.dequantize(call.codes, None, *args, 128, 33, 200, torch.float32)
    assert got[0].shape == (2, 2, 200, 72)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_float32_states_and_their_codes(kernel, path):
    """append and quantize of float32 states reach the nearest centroid of the states themselves."""
    codebook = cases.random_codebook(2, 64, "d4b8", "d4b8x2", "full", "full", means=True)
    states = [torch.randn(1, 2, 100, 64) for _ in range(2)]
    codes = cases.random_codes(1, 2, 5, codebook, 64)
    kernel.quantize(*states, codes, None, int32(7), int32(100), int32(0), *cases.write_args(codebook))
    for side, x in zip(("key", "value"), states, strict=True):
        got = oracle.read_codes(codes, *cases.formats(codebook), 64, side)[:, :, 7:107]
        weight, mean = getattr(codebook, f"{side}_transform"), getattr(codebook, f"{side}_mean")
        centroids, scale = getattr(codebook, f"{side}_centroids"), getattr(codebook, f"{side}_centroid_scale")
        vectors = oracle.forward(x, weight, mean)
        for reached, best in oracle.greedy_distances(vectors, got, centroids, scale):
            assert (reached <= best * (1 + 1e-5) + 1e-5).all()


def test_refusals(kernel, monkeypatch):
    call = Call([100])
    good = call.query
    call.query = good.double()
    with pytest.raises(RuntimeError, match="query is float64, but these kernels take float32, bfloat16 or float16"):
        call.run(kernel)
    call.query = good
    with pytest.raises(RuntimeError, match="num_splits is -1"):
        call.run(kernel, -1)
    call.softmax_scale = 0.0
    with pytest.raises(RuntimeError, match="softmax_scale is 0"):
        call.run(kernel)
    with pytest.raises(RuntimeError, match="query has 4 tokens per row, .* the ring's 3 slots"):
        Call([100], slots=3, query_tokens=4).run(kernel)
    call = Call([100])
    call.exact[3] = call.exact[3].half()
    with pytest.raises(RuntimeError, match="ring_values is float16, but it must be float32"):
        call.run(kernel)
    call = Call([100])
    states = torch.randn(1, 2, 17, 64)
    args = cases.write_args(call.codebook)
    numbers = int32(0), int32(17), int32(0)
    with pytest.raises(RuntimeError, match="at most 16 tokens at a time and no more than the ring's 32 slots, not 17"):
        kernel.append(states, states, call.codes, None, *call.exact, int32(100), int32(64), *args)
    for wrong, message in (
        (states[..., :60], "key_states has head size 60, but a multiple of 8 up to 512"),
        (states.repeat(1, 1, 1, 2)[..., ::2], "last dimension"),
        (states.double(), "key_states is float64"),
        (states[:, :1], r"value_states has shape \[1, 2, 17, 64\], but \[1, 1, 17, \*\]"),
    ):
        with pytest.raises(RuntimeError, match=message):
            kernel.quantize(wrong, states, call.codes, None, *numbers, *args)
    with pytest.raises(RuntimeError, match="starts is int64, but it must be int32"):
        kernel.quantize(states, states, call.codes, None, numbers[0].long(), *numbers[1:], *args)
    with pytest.raises(RuntimeError, match="code slots 60 to 165 are outside the buffer"):
        kernel.dequantize(call.codes, None, *cases.read_args(call.codebook), 64, 60, 105, torch.float32)
    monkeypatch.setenv("VECINFER_CPU_PATH", "sse9")
    with pytest.raises(RuntimeError, match="VECINFER_CPU_PATH is 'sse9', but portable, avx2, avx512 or vnni"):
        call.run(kernel)
