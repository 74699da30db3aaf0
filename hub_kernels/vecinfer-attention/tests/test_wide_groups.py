# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""decode_attention for 5 to 16 query heads per key/value head, whose softmax weights are fp16 numbers.

Tolerance: the error is at most twice that of bf16 torch, as in test_decode_attention.py, but with a floor of 2^-13:
queries err by 2^-16 of their largest element, weights by 2^-12 of themselves, sums by 2^-24 for each product.
"""

from __future__ import annotations

import decode_cases
import pytest
import torch
from decode_cases import Cache, relative_error


pytestmark = pytest.mark.gpu
FLOOR = 2.0**-13
GROUPS = [5, 7, 8, 12, 16]


def check(cache: Cache, kernel, num_splits: int = 0) -> None:
    out, lse = cache.run(kernel, num_splits)
    for row in range(len(cache.lengths)):
        expected, expected_lse = cache.expected(row)
        limit = 2 * relative_error(cache.plain(row), expected) + FLOOR
        error = relative_error(out[row], expected)
        assert error <= limit, f"error {error:.2e}, allowed {limit:.2e}"
        torch.testing.assert_close(lse[row].double(), expected_lse, rtol=1e-4, atol=2e-3)


@pytest.mark.kernels_ci
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("query_size", [0.01, 1.0, 4.0, 20.0])  # flat to peaked
def test_flat_and_peaked_softmax(kernel, group, query_size):
    check(Cache([9001, 700], heads=1, group=group, query_size=query_size), kernel)


@pytest.mark.parametrize("bits", ["d4b8", "d4b8x2", "d8b8"])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("group", [8, 16])
def test_formats_and_head_sizes(kernel, bits, head_dim, group):
    check(Cache([3001, 164, 133], head_dim=head_dim, key=bits, value=bits, group=group, means=True), kernel)


@pytest.mark.parametrize(("key", "value"), [("d4b8x2", "d8b8"), ("d8b8", "d4b8"), ("d4b8", "d4b8x2")])
@pytest.mark.parametrize("group", [8, 16])
def test_keys_and_values_differ(kernel, key, value, group):
    check(Cache([3001, 200], key=key, value=value, group=group), kernel)


@pytest.mark.parametrize("softcap", [5.0, 50.0])
@pytest.mark.parametrize("group", [8, 16])
def test_softcap_and_sink_logits(kernel, softcap, group):
    check(Cache([2001, 200], group=group, softcap=softcap, sink_logits=True, query_size=3.0), kernel)


@pytest.mark.parametrize("group", [8, 16])
@pytest.mark.parametrize("num_splits", [1, 5])
def test_long_runs(kernel, group, num_splits):
    """One warp takes up to 12,288 tokens: the bytes' bias leaves the sums hundreds of times."""
    check(Cache([98304], heads=1, group=group), kernel, num_splits)


@pytest.mark.parametrize("group", [8, 16])
def test_rising_scores(kernel, group):
    """Each tile exceeds the one before by 8 in log2: weights grow to the largest fp16 number and start again."""
    cache = Cache([132 + 32 * 64], heads=1, group=group, sinks=0, residual_length=132)
    book = cache.codebook
    book.key_centroids.copy_(torch.arange(256).view(1, 1, 256, 1).expand_as(book.key_centroids) - 128)
    codes = cache.codes
    places = torch.tensor([[decode_cases.oracle.position("key", t, s, 32) for s in range(32)] for t in range(32)])
    for tile in range(64):
        codes[0, 0, tile, places.flatten()] = tile * 4
    flat = torch.full((128,), 1.0, dtype=torch.float64, device=decode_cases.cases.DEVICE)
    size = 8 * 0.6931 / (4 * cache.softmax_scale * book.key_centroid_scale.item() * 128)
    query = (flat * size @ decode_cases.oracle.hadamard(128, flat.device)) / book.query_transform[0].double()
    cache.query = query.to(cache.dtype).expand(1, group, 1, 128).contiguous()
    cache.ring_keys = torch.zeros_like(cache.ring_keys)
    check(cache, kernel, num_splits=1)


@pytest.mark.parametrize("group", [8, 16])
@pytest.mark.parametrize("level", [127, -127])
def test_equal_values_come_back(kernel, group, level):
    """Values that are all the same are the output, whatever the weights: the bias leaves nothing behind."""
    tokens = 40001
    cache = Cache([tokens], heads=1, group=group, sinks=0, residual_length=1, quantized=[tokens - 1])
    cache.codebook.value_centroids.fill_(level)
    value = level * cache.codebook.value_centroid_scale.item()
    cache.ring_values = torch.full_like(cache.ring_values, value)
    out, _ = cache.run(kernel)
    # bf16 rounds to 2^-9 of the value.
    torch.testing.assert_close(out.float(), torch.full_like(out, value, dtype=torch.float32), rtol=2.0**-8, atol=0)


@pytest.mark.parametrize("group", [8, 16])
def test_values_that_cancel(kernel, group):
    """Two values of opposite sign in turn and equal weights: the output is the difference of large sums."""
    tokens = 32 * 1024
    cache = Cache([tokens + 1], heads=1, group=group, sinks=0, residual_length=1, quantized=[tokens], query_size=0.0)
    book = cache.codebook
    book.value_centroids[:, :, 0], book.value_centroids[:, :, 1] = 127, -127
    places = torch.tensor([[decode_cases.oracle.position("value", t, s, 32) for s in range(32)] for t in range(32)])
    for token in range(32):
        cache.codes[..., 1024 + places[token]] = token % 2
    cache.ring_values = torch.zeros_like(cache.ring_values)
    out, _ = cache.run(kernel)
    # 2^-24 of the bias for each product of 16 tokens that a bias stays in the sums.
    assert out.abs().max().item() <= 127 * book.value_centroid_scale.item() * 32 * 2.0**-24 * 2
