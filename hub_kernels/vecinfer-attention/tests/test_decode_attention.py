# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""decode_attention against the float64 oracle.

Tolerance: at most twice the error of plain torch in the same dtype (keys, values and weights rounded to 16 bits), plus
a floor of 2^-10 for the kernel's own rounding: of queries to 16 bits (2^-16), and of weights to multiples of 2^-13 of
the largest one, with errors of random sign that average out over tokens.
"""

from __future__ import annotations

import math

import decode_cases
import pytest
import torch
from decode_cases import Cache, relative_error


pytestmark = pytest.mark.gpu
FLOOR = 2.0**-10
# 0, 1, only sinks, the ring partly and just full, tiles: one less, full, one more; and longer, odd and ragged.
LENGTHS = [0, 1, 4, 5, 131, 132, 133, 163, 164, 165, 196, 777, 3001]


@pytest.fixture(params=["", "portable", "general"])
def path(request, monkeypatch):
    """Choose the fastest path of the machine or a slower one."""
    decode_cases.cases.choose_path(monkeypatch, request.param)
    return request.param


def check(cache: Cache, kernel, num_splits: int = 0, floor: float = FLOOR) -> None:
    out, lse = cache.run(kernel, num_splits)
    for row, length in enumerate(cache.lengths):
        if length == 0:
            assert (out[row] == 0).all()
            if cache.extra_logits is None:
                assert (lse[row] == -math.inf).all()
            continue
        expected, expected_lse = cache.expected(row)
        seen = expected_lse > -math.inf  # early query tokens of a short row see nothing
        limit = 2 * relative_error(cache.plain(row).nan_to_num(), expected) + floor
        error = relative_error(out[row], expected)
        assert error <= limit, f"row of {length} tokens: error {error:.2e}, allowed {limit:.2e}"
        torch.testing.assert_close(lse[row][seen].double(), expected_lse[seen], rtol=1e-4, atol=2e-3)
        assert (out[row][~seen] == 0).all()


@pytest.mark.kernels_ci
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("bits", ["d4b8", "d4b8x2", "d8b8"])
def test_formats_and_head_sizes(kernel, path, head_dim, bits):
    check(Cache(LENGTHS, head_dim=head_dim, key=bits, value=bits), kernel)


@pytest.mark.parametrize(
    ("key", "value"), [("d4b8x2", "d8b8"), ("d8b8", "d4b8"), ("d4b8", "d4b8x2"), ("d4b8", "d8b8")]
)
def test_keys_and_values_differ(kernel, key, value):
    check(Cache(LENGTHS, key=key, value=value), kernel)


@pytest.mark.parametrize(
    ("head_dim", "key", "value"),
    [
        (128, "d2b8", "d2b8"),
        (128, "d8b12", "d8b12"),
        (64, "d8b10", "d4b8"),
        (80, "d4b8", "d4b8"),
        (96, "d8b8", "d8b12"),
    ],
)
def test_formats_of_the_general_path(kernel, head_dim, key, value):
    check(Cache(LENGTHS, head_dim=head_dim, key=key, value=value, means=True), kernel)


@pytest.mark.parametrize(
    ("group", "query_tokens"),
    [(1, 1), (2, 1), (3, 1), (7, 1), (8, 1), (16, 1), (1, 2), (4, 4), (4, 16), (5, 3), (16, 16)],
)
def test_groups_and_query_tokens(kernel, path, group, query_tokens):
    check(Cache(LENGTHS, heads=1, group=group, query_tokens=query_tokens), kernel)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("transform", ["diagonal", "full"])
@pytest.mark.parametrize("value_transform", [None, "diagonal", "full"])
def test_transforms_and_means(kernel, path, dtype, transform, value_transform):
    cache = Cache(
        LENGTHS, dtype=dtype, transform=transform, value_transform=value_transform, means=True, query_tokens=2
    )
    check(cache, kernel)


@pytest.mark.parametrize("softcap", [0.0, 5.0, 50.0])
@pytest.mark.parametrize("sink_logits", [False, True])
def test_softcap_and_sink_logits(kernel, path, softcap, sink_logits):
    cache = Cache(LENGTHS, softcap=softcap, sink_logits=sink_logits, means=True, query_size=3.0, query_tokens=3)
    check(cache, kernel)


def test_no_sinks_and_other_windows(kernel, path):
    check(Cache([1, 32, 33, 64, 200, 1000], sinks=0, residual_length=32), kernel)
    check(Cache([5, 37, 100, 999], sinks=5, residual_length=17, query_tokens=3), kernel)
    check(Cache([140, 500, 2000], ring=3), kernel)  # after a crop


@pytest.mark.parametrize("transform", ["diagonal", "full"])
def test_many_rows_of_unequal_length(kernel, path, transform):
    lengths = torch.randint(0, 1200, (70,)).tolist()
    check(Cache(lengths, heads=1, group=2, head_dim=64, transform=transform, value_transform=transform), kernel)


@pytest.mark.parametrize("head_dim", [64, 80, 96, 256])
def test_full_transforms_of_other_head_sizes(kernel, path, head_dim):
    cache = Cache(LENGTHS, head_dim=head_dim, group=3, transform="full", value_transform="full", means=True)
    check(cache, kernel)


@pytest.mark.parametrize("head_dim", [64, 80, 128, 256])
@pytest.mark.parametrize("load", [0.5, 0.9, 1.2, 4.5])  # tiles of 4 rows per multiprocessor
def test_full_transforms_of_few_and_many_rows(kernel, path, head_dim, load):
    """Beyond one tile per multiprocessor blocks take 2 or 4. A pair of batch row and head has 9 queries: 3 tiles."""
    batch = int(load * torch.cuda.get_device_properties(0).multi_processor_count / 6) | 1
    lengths = torch.randint(0, 400, (batch,)).tolist()
    cache = Cache(
        lengths, head_dim=head_dim, group=3, query_tokens=3, residual_length=32, transform="full",
        value_transform="full", means=True, sink_logits=head_dim == 128,
    )  # fmt: skip
    check(cache, kernel)


@pytest.mark.parametrize("num_splits", [1, 2, 5, 33, 132])
def test_number_of_splits(kernel, path, num_splits):
    cache = Cache([4001, 0, 77, 1234])
    check(cache, kernel, num_splits)
    first, second = cache.run(kernel, num_splits), cache.run(kernel, num_splits)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("query_size", [0.01, 1.0, 4.0])
def test_196608_tokens(kernel, query_size):
    check(Cache([196608], heads=1, query_size=query_size), kernel)


def test_strides_and_offsets(kernel, path):
    cache = Cache(LENGTHS)
    whole = [
        torch.randn(len(LENGTHS), 2, 40, 3, 136, device=decode_cases.cases.DEVICE).to(cache.dtype) for _ in range(2)
    ]
    cache.sink_keys, cache.sink_values = (part[:, :, 5:9, 1, 8:] for part in whole)
    check(cache, kernel)
    # Not on 16 bytes: the general path takes it.
    whole = [
        torch.randn(len(LENGTHS), 2, 140, 131, device=decode_cases.cases.DEVICE).to(cache.dtype) for _ in range(2)
    ]
    cache.ring_keys, cache.ring_values = (part[:, :, 3:131, 3:] for part in whole)
    flat = torch.randn(cache.query.numel() + 3, device=decode_cases.cases.DEVICE).to(cache.dtype)[3:]
    cache.query = flat.view(cache.query.shape)
    check(cache, kernel)


@pytest.mark.parametrize("group", [1, 8, 16])
@pytest.mark.parametrize("gap", [13.5, 14.5, 15.5, 16.5])
def test_small_weights_do_not_vanish(kernel, gap, group):
    """One spike per warp over 8191 tokens of weight 2^-gap each: the weight of all of them must be kept.

    Rounding integer weights to nearest would drop everything under half the step of 2^-13, here most of the output.
    The dither moves a weight by at most one step and keeps the sum of equal weights on average; 2 % of their sum is
    asked for. Wide groups have fp16 weights, which keep them.
    """
    tokens = 131072
    cache = Cache([tokens], heads=1, group=group, sinks=0, residual_length=1, quantized=[tokens - 1], tiles=4096)
    book = cache.codebook
    low = 127 - 64
    book.key_centroids.zero_()
    book.key_centroids[:, :, 0], book.key_centroids[:, :, 1] = 127, low
    book.value_centroids.zero_()
    book.value_centroids[:, :, 0], book.value_centroids[:, :, 1] = -127, 127
    codes = torch.ones_like(cache.codes)
    # 16 warps (8 for 16 heads) share the list. What starting a row and the exact token weigh moves a run's start by a
    # few tiles from the even division, so a spike 8 tiles behind that lies among the first dozen of the 256 tiles of
    # every run, and all that follow are small beside it. Token 0 of a tile has these places.
    places = torch.tensor([decode_cases.oracle.position("key", 0, s, 32) for s in range(32)])
    values = torch.tensor([1024 + decode_cases.oracle.position("value", 0, s, 32) for s in range(32)])
    for tile in range(8, 4096, 256):
        codes[0, 0, tile, places] = 0
        codes[0, 0, tile, values] = 0
    cache.codes = codes
    # q~ is the same number everywhere: q = that number in the first element of the Hadamard block, undone.
    scale = book.key_centroid_scale.item()
    size = gap * math.log(2) / (cache.softmax_scale * scale * (127 - low) * 128)
    flat = torch.full((128,), size, dtype=torch.float64, device=decode_cases.cases.DEVICE)
    query = (flat @ decode_cases.oracle.hadamard(128, flat.device)) / book.query_transform[0].double()
    cache.query = query.to(cache.dtype).expand(1, group, 1, 128).contiguous()
    cache.ring_keys = torch.zeros_like(cache.ring_keys)
    cache.ring_values = torch.zeros_like(cache.ring_values)
    out, _ = cache.run(kernel, num_splits=1)
    expected, _ = cache.expected(0)
    spike = -127 * book.value_centroid_scale.item()
    small = ((expected - spike) / (-2 * spike)).mean().item()  # share of the small weights
    kept = ((out[0].double() - spike) / (-2 * spike)).mean().item()
    assert 0.02 < small < 0.6
    # bf16 output: 2^-9 of |spike| is 2^-10 of the range.
    assert abs(kept - small) < 0.02 * small + 2.0**-10, (kept, small)


def test_graph_with_growing_lengths(kernel):
    cache = Cache([300, 5, 1000], query_tokens=2, tiles=64)
    lengths = torch.tensor(cache.lengths, dtype=torch.int32, device=decode_cases.cases.DEVICE)
    quantized = torch.tensor(cache.quantized, dtype=torch.int32, device=decode_cases.cases.DEVICE)

    def call():
        return kernel.decode_attention(
            cache.query, cache.codes, None, cache.sink_keys, cache.sink_values, cache.ring_keys, cache.ring_values,
            lengths, quantized, *decode_cases.cases.read_args(cache.codebook), cache.softmax_scale,
        )  # fmt: skip

    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, lse = call()
    for step in (0, 1, 40, 700):
        cache.lengths = [300 + step, 5 + step, 1000 + step]
        cache.quantized = [max(0, length - 132) for length in cache.lengths]
        lengths.copy_(torch.tensor(cache.lengths))
        quantized.copy_(torch.tensor(cache.quantized))
        out.fill_(math.nan)
        graph.replay()
        eager = call()
        assert torch.equal(out, eager[0])
        assert torch.equal(lse, eager[1])
        check(cache, kernel)


def test_nan_is_not_hidden(kernel, path):
    cache = Cache([500, 600])
    cache.query[1, 3, 0, 5] = math.nan
    out, _ = cache.run(kernel)
    assert out[1, 3].isnan().all()
    out[1, 3] = 0
    assert out.isfinite().all()


def test_refusals(kernel):
    cache = Cache([500], query_tokens=1)
    cache.query = cache.query.float()
    with pytest.raises(RuntimeError, match="query is float32"):
        cache.run(kernel)
    cache = Cache([500], query_tokens=4, residual_length=3)
    with pytest.raises(RuntimeError, match="no more than the ring's 3 slots"):
        cache.run(kernel)
    cache = Cache([500])
    cache.softmax_scale = 0.0
    with pytest.raises(RuntimeError, match="softmax_scale is 0"):
        cache.run(kernel)
    with pytest.raises(RuntimeError, match="num_splits is -1"):
        Cache([500]).run(kernel, -1)


def test_what_is_not_there_yet_is_refused_by_name(kernel):
    cache = Cache([500])
    cache.sink_values, cache.ring_values = cache.sink_values[..., :64], cache.ring_values[..., :64]
    with pytest.raises(RuntimeError, match="values have head size 64 and keys 128"):
        cache.run(kernel)


def test_codes_alone(kernel, path):
    """Without sinks and ring a single query token attends to the codes; several would need a mask."""
    cache = Cache([500], sinks=0, residual_length=0)
    check(cache, kernel)
    with pytest.raises(RuntimeError, match="query has 2 tokens per row, .* the ring's 0 slots"):
        Cache([500], sinks=0, residual_length=0, query_tokens=2).run(kernel)
