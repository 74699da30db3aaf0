# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""quantize: every format, head size and transform; what it must not touch; what it refuses."""

from __future__ import annotations

import cases
import oracle
import pytest
import torch
from cases import FORMATS, int32


pytestmark = pytest.mark.gpu


def check(
    kernel,
    codebook,
    batch=2,
    heads=2,
    head_dim=128,
    tokens=77,
    dtype=torch.bfloat16,
    starts=None,
    scale=1.0,
    outlier=20.0,
    aligned=False,
):
    """Quantize rows of different starts and counts and compare everything with the oracle."""
    keys, values = (cases.random_states(batch, heads, tokens, head_dim, dtype) * scale for _ in range(2))
    keys[0, 0, 0] *= outlier
    if aligned:  # every row on 16 bytes
        keys, values = keys.contiguous(), values.contiguous()
    starts = [0, 45] if starts is None else starts
    counts, first = [tokens, tokens - 30], [0, 30]
    tiles = -(-(max(starts) + tokens) // 32) + 1
    codes = cases.random_codes(batch, heads, tiles, codebook, head_dim)
    before = codes.clone()
    kernel.quantize(
        keys, values, codes, None, int32(*starts), int32(*counts), int32(*first), *cases.write_args(codebook)
    )
    formats = cases.formats(codebook)
    for side, states in (("key", keys), ("value", values)):
        weight, mean = (
            (codebook.key_transform, codebook.key_mean)
            if side == "key"
            else (codebook.value_transform, codebook.value_mean)
        )
        centroids, unit = (getattr(codebook, f"{side}_centroids"), getattr(codebook, f"{side}_centroid_scale"))
        got = oracle.read_codes(codes, *formats, head_dim, side)
        old = oracle.read_codes(before, *formats, head_dim, side)
        for row, (start, count, begin) in enumerate(zip(starts, counts, first, strict=True)):
            new = got[row : row + 1, :, start : start + count]
            cases.assert_nearest(states[row : row + 1, :, begin : begin + count], new, weight, mean, centroids, unit)
            untouched = torch.ones(got.shape[2], dtype=torch.bool, device=got.device)
            untouched[start : start + count] = False
            assert torch.equal(got[row][:, untouched], old[row][:, untouched])


@pytest.mark.kernels_ci
@pytest.mark.parametrize("key", FORMATS)
@pytest.mark.parametrize("value", ["d4b8", "d8b8"])
def test_formats(kernel, key, value):
    check(kernel, cases.random_codebook(2, 128, key, value))
    check(kernel, cases.random_codebook(2, 128, value, key))


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("fmt", FORMATS)
def test_head_dims(kernel, head_dim, fmt):
    check(kernel, cases.random_codebook(2, head_dim, fmt, fmt), head_dim=head_dim)


@pytest.mark.parametrize("transform", ["diagonal", "full"])
@pytest.mark.parametrize("value_transform", [None, "diagonal", "full"])
@pytest.mark.parametrize("head_dim", [64, 80, 128, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_transforms(kernel, transform, value_transform, head_dim, dtype):
    codebook = cases.random_codebook(2, head_dim, "d4b8", "d4b8x2", transform, value_transform, means=True)
    check(kernel, codebook, head_dim=head_dim, dtype=dtype)


@pytest.mark.parametrize("tokens", [31, 32, 33, 64, 1000])
@pytest.mark.parametrize("starts", [(0, 0), (1, 31), (32, 63)])
@pytest.mark.parametrize("transform", ["diagonal", "full"])
def test_lengths(kernel, tokens, starts, transform):
    codebook = cases.random_codebook(2, 128, "d4b8", "d8b10", transform)
    check(kernel, codebook, tokens=tokens, starts=list(starts))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("transform", ["diagonal", "full"])
@pytest.mark.parametrize(
    ("fmt", "head_dim"), [*((fmt, 128) for fmt in FORMATS), ("d4b8", 64), ("d8b8", 80), ("d4b8", 256)]
)
def test_large(kernel, fmt, head_dim, transform, aligned):
    """Enough tiles for blocks of the most warps on all multiprocessors."""
    value_transform = "full" if transform == "full" else None
    codebook = cases.random_codebook(16, head_dim, fmt, fmt, transform, value_transform, means=True)
    dtype = torch.bfloat16 if aligned else torch.float16
    check(kernel, codebook, heads=16, head_dim=head_dim, tokens=2200, dtype=dtype, aligned=aligned)


@pytest.mark.parametrize("transform", ["diagonal", "full"])
@pytest.mark.parametrize("fmt", ["d4b8", "d4b8x2", "d8b8", "d2b8", "d8b10"])
def test_large_and_far(kernel, fmt, transform):
    value_transform = "full" if transform == "full" else None
    codebook = cases.random_codebook(16, 64, fmt, fmt, transform, value_transform)
    check(kernel, codebook, heads=16, head_dim=64, tokens=2200, scale=15.0, outlier=1.0)


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("starts", [(0, 0), (1, 31)])
def test_aligned_states(kernel, head_dim, starts):
    codebook = cases.random_codebook(2, head_dim, "d4b8", "d8b8", means=True)
    check(kernel, codebook, head_dim=head_dim, starts=list(starts), aligned=True)


@pytest.mark.parametrize("transform", ["diagonal", "full"])
@pytest.mark.parametrize("value", ["d4b8", "d4b8x2", "d8b12"])
def test_many_tokens_at_once_or_in_pieces(kernel, transform, value):
    """Blocks have one tile where tokens are few, and several rounds of them where there are thousands: same codes."""
    heads, tokens, piece = 4, 20000, 400
    value_transform = "full" if transform == "full" else None
    codebook = cases.random_codebook(heads, 128, "d4b8", value, transform, value_transform, means=True)
    states = cases.random_states(1, heads, tokens, 128, torch.bfloat16)
    whole, parts = (cases.random_codes(1, heads, -(-tokens // 32), codebook, 128) for _ in range(2))
    args = cases.write_args(codebook)
    kernel.quantize(states, states * 2, whole, None, int32(0), int32(tokens), int32(0), *args)
    for start in range(0, tokens, piece):
        part = states[:, :, start : start + piece]
        kernel.quantize(part, part * 2, parts, None, int32(start), int32(piece), int32(0), *args)
    for side in ("key", "value"):
        got, want = (oracle.read_codes(codes, *cases.formats(codebook), 128, side) for codes in (whole, parts))
        assert torch.equal(got[:, :, :tokens], want[:, :, :tokens])


@pytest.mark.parametrize("fmt", ["d8b10", "d8b12"])
def test_what_shared_memory_held_before_does_not_matter(kernel, fmt):
    """Heads of 80 channels leave places of a plane unused; there lies what an earlier kernel left behind."""
    other = cases.random_codebook(8, 256, fmt, fmt)
    states = cases.random_states(4, 8, 2048, 256, torch.bfloat16)
    codes = cases.random_codes(4, 8, 64, other, 256)
    kernel.quantize(
        states, states, codes, None, int32(*[0] * 4), int32(*[2048] * 4), int32(*[0] * 4), *cases.write_args(other)
    )
    check(kernel, cases.random_codebook(2, 80, fmt, fmt), head_dim=80, tokens=64)


def test_far_inputs(kernel):
    """Every input outside the range of the fast search: the exact search alone decides."""
    for fmt in FORMATS:
        check(kernel, cases.random_codebook(2, 128, fmt, fmt), scale=15.0, outlier=1.0)


def test_one_sided_codebook(kernel):
    """No centroid near the inputs: the fast search has no positive score to offer."""
    codebook = cases.random_codebook(2, 128)
    codebook = codebook._replace(value_centroids=(codebook.value_centroids.abs() // 8 + 111).to(torch.int8))
    check(kernel, codebook, scale=2.0)


@pytest.mark.parametrize("fmt", FORMATS)
def test_centroids_are_kept(kernel, fmt):
    """Inputs that are centroids come back exactly: the scale is a power of two, so bf16 holds them."""
    heads, head_dim, tokens = 2, 64, 512
    codebook = cases.random_codebook(heads, head_dim, fmt, fmt)
    centroids = codebook.value_centroids
    # A second level that can only add nothing.
    centroids[:, 1:] = 0
    unit = torch.full((heads,), 2.0**-5, device=cases.DEVICE)
    codebook = codebook._replace(value_centroids=centroids, value_centroid_scale=unit)
    subvectors = head_dim // centroids.shape[3]
    chosen = torch.randint(0, centroids.shape[2], (1, heads, tokens, 1, subvectors), device=cases.DEVICE)
    values = oracle.reconstruct(chosen, centroids[:, :1], unit).to(torch.bfloat16)
    codes = cases.random_codes(1, heads, tokens // 32, codebook, head_dim)
    args = int32(0), int32(tokens), int32(0)
    kernel.quantize(values, values, codes, None, *args, *cases.write_args(codebook))
    got = oracle.read_codes(codes, *cases.formats(codebook), head_dim, "value")
    assert torch.equal(oracle.reconstruct(got, centroids, unit), values.double())


def test_nothing_to_do(kernel):
    codebook = cases.random_codebook(2, 128)
    codes = cases.random_codes(2, 2, 3, codebook, 128)
    before = codes.clone()
    states = cases.random_states(2, 2, 40, 128, torch.bfloat16)
    kernel.quantize(states, states, codes, None, int32(0, 5), int32(0, 0), int32(0, 0), *cases.write_args(codebook))
    assert torch.equal(codes, before)
    empty = states[:, :, :0]
    kernel.quantize(empty, empty, codes, None, int32(0, 5), int32(0, 0), int32(0, 0), *cases.write_args(codebook))
    assert torch.equal(codes, before)


def test_beyond_the_buffer(kernel):
    """Counts that run past the states or the buffer write nothing outside."""
    codebook = cases.random_codebook(1, 128)
    whole = cases.random_codes(1, 1, 4, codebook, 128)
    before = whole.clone()
    states = cases.random_states(1, 1, 40, 128, torch.bfloat16)
    kernel.quantize(
        states, states, whole[:, :, :2], None, int32(50), int32(500), int32(0), *cases.write_args(codebook)
    )
    assert torch.equal(whole[:, :, 2:], before[:, :, 2:])


def test_refusals(kernel):
    codebook = cases.random_codebook(2, 128)
    codes = cases.random_codes(1, 2, 2, codebook, 128)
    states = cases.random_states(1, 2, 40, 128, torch.bfloat16)
    numbers = int32(0), int32(40), int32(0)
    args = cases.write_args(codebook)
    with pytest.raises(RuntimeError, match="float32, but these kernels take bfloat16 or float16"):
        kernel.quantize(states.float(), states.float(), codes, None, *numbers, *args)
    with pytest.raises(RuntimeError, match="value_states is float16, but it must be bfloat16"):
        kernel.quantize(states, states.half(), codes, None, *numbers, *args)
    with pytest.raises(RuntimeError, match="values have head size 64 and keys 128"):
        kernel.quantize(states, states[..., :64], codes, None, *numbers, *args)
    with pytest.raises(RuntimeError, match=r"block_table has shape \[2\], but \[1, \*\] is needed"):
        kernel.quantize(states, states, codes, int32(0, 1), *numbers, *args)
    with pytest.raises(RuntimeError, match="head size 72 is not supported"):
        kernel.quantize(states[..., :72], states[..., :72], codes, None, *numbers, *args)
    with pytest.raises(RuntimeError, match="codes has shape"):
        kernel.quantize(states, states, codes[..., :-1], None, *numbers, *args)
    with pytest.raises(RuntimeError, match="starts is int64, but it must be int32"):
        kernel.quantize(states, states, codes, None, numbers[0].long(), *numbers[1:], *args)
    twice = states.repeat_interleave(2, -1)[..., ::2]
    with pytest.raises(RuntimeError, match="last dimension"):
        kernel.quantize(twice, twice, codes, None, *numbers, *args)
    odd = codebook._replace(key_centroids=codebook.key_centroids.repeat(1, 1, 2, 1))
    with pytest.raises(RuntimeError, match="512 centroids per code"):
        kernel.quantize(states, states, codes, None, *numbers, *cases.write_args(odd))
