# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""dequantize: every format, transform, range and dtype, against the float64 reconstruction of the same bytes."""

from __future__ import annotations

import cases
import oracle
import pytest
import torch
from cases import FORMATS


pytestmark = pytest.mark.gpu

ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def check(kernel, codebook, head_dim, start, length, dtype):
    codes = cases.random_codes(2, 2, 5, codebook, head_dim)
    formats = cases.formats(codebook)
    results = kernel.dequantize(codes, None, *cases.read_args(codebook), head_dim, start, length, dtype)
    query = codebook.query_transform
    inverses = (query.transpose(1, 2) if query.dim() == 3 else query, codebook.output_transform)
    means = (codebook.key_mean, codebook.value_mean)
    for side, got, inverse, mean in zip(("key", "value"), results, inverses, means, strict=True):
        centroids, unit = (getattr(codebook, f"{side}_centroids"), getattr(codebook, f"{side}_centroid_scale"))
        integers = oracle.read_codes(codes, *formats, head_dim, side)[:, :, start : start + length]
        vectors = oracle.reconstruct(integers, centroids, unit)
        want = oracle.backward(vectors, inverse, mean)
        assert got.dtype == dtype
        assert got.shape == want.shape
        # One rounding to the dtype, and D additions in fp32 of terms no larger than the vector times the inverse.
        stretch = 1.0 if inverse is None else inverse.double().norm(dim=-2 if inverse.dim() == 3 else -1).amax()
        sums = vectors.norm(dim=-1, keepdim=True) * stretch * head_dim * 2.0**-23
        smallest = 2.0**-25 if dtype == torch.float16 else 0.0
        bound = want.abs() * ROUNDING[dtype] + sums + smallest
        assert ((got.double() - want).abs() <= bound).all()


@pytest.mark.kernels_ci
@pytest.mark.parametrize("key", FORMATS)
@pytest.mark.parametrize("value", FORMATS)
def test_formats(kernel, key, value):
    check(kernel, cases.random_codebook(2, 128, key, value), 128, 5, 100, torch.float32)


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("transform", ["diagonal", "full"])
@pytest.mark.parametrize("value_transform", [None, "diagonal", "full"])
@pytest.mark.parametrize("dtype", ROUNDING)
def test_transforms(kernel, head_dim, transform, value_transform, dtype):
    codebook = cases.random_codebook(2, head_dim, "d4b8", "d8b8", transform, value_transform, means=True)
    check(kernel, codebook, head_dim, 17, 61, dtype)


@pytest.mark.parametrize(
    ("start", "length"), [(0, 160), (0, 1), (31, 1), (31, 2), (32, 32), (159, 1), (60, 5), (3, 0)]
)
def test_ranges(kernel, start, length):
    check(kernel, cases.random_codebook(2, 128), 128, start, length, torch.bfloat16)


def test_refusals(kernel):
    codebook = cases.random_codebook(2, 128)
    codes, args = cases.random_codes(1, 2, 2, codebook, 128), cases.read_args(codebook)
    with pytest.raises(RuntimeError, match="code slots 60 to 65 are outside the buffer of 64"):
        kernel.dequantize(codes, None, *args, 128, 60, 5, torch.bfloat16)
    with pytest.raises(RuntimeError, match="dequantize gives float32, float16 or bfloat16"):
        kernel.dequantize(codes, None, *args, 128, 0, 5, torch.int32)
    with pytest.raises(RuntimeError, match="values have head size 64 and keys 128"):
        kernel.dequantize(codes, None, *args, 64, 0, 5, torch.bfloat16)
    with pytest.raises(RuntimeError, match="code slots 60 to 130 are outside the buffer of 128"):
        kernel.dequantize(codes, cases.int32(0, 0).view(1, 2), *args, 128, 60, 70, torch.bfloat16)
