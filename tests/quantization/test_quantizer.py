# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""quantizer.py: the nearest centroid, exactly, level by level, and centroids as int8."""

import pytest
import torch
from tiny_codebooks import random_layer

from vecinfer_hf.quantization import quantizer
from vecinfer_hf.quantization.formats import parse_format
from vecinfer_hf.quantization.quantizer import dequantize, nearest_centroids, quantize, round_to_int8


FORMATS = ["d2b8", "d4b8", "d4b8x2", "d8b8", "d8b10", "d8b12"]
EPS = torch.finfo(torch.float32).eps


def centroids_of(name, heads=2, head_dim=64, seed=0):
    layer = random_layer(heads, head_dim, name, name, seed=seed)
    return layer.key_centroids, layer.key_centroid_scale


def distinct_centroids(fmt, heads=2, seed=0):
    """Centroids without duplicates; further levels are so small that the greedy search must find them again."""
    generator = torch.Generator().manual_seed(seed)
    tables = torch.zeros(heads, fmt.num_codes, fmt.codebook_size, fmt.subvector_dim, dtype=torch.int8)
    for head in range(heads):
        for level in range(fmt.num_codes):
            span = 255 if fmt.num_codes == 1 else (15, 8)[level]
            # Different places of a grid, shuffled: distinct by construction.
            number = torch.randint(
                min(span**fmt.subvector_dim, 1 << 24), (4 * fmt.codebook_size,), generator=generator
            )
            number = number.unique()
            number = number[torch.randperm(len(number), generator=generator)[: fmt.codebook_size]]
            digits = torch.stack([number // span**i % span for i in range(fmt.subvector_dim)], -1)
            if fmt.num_codes == 1:
                table = digits - 127
            else:
                # Level 0 on a grid of step 16, level 1 inside (-4 .. 3): no other coarse centroid is nearer.
                table = (digits - 7) * 16 if level == 0 else digits - 4
            tables[head, level] = table.to(torch.int8)
    return tables


@pytest.mark.parametrize("scale", [1.0, 0.013, 7.3])
@pytest.mark.parametrize("name", FORMATS)
def test_vectors_built_from_centroids_come_back_exactly(name, scale):
    fmt = parse_format(name)
    table = distinct_centroids(fmt)
    scales = torch.tensor([scale, scale * 1.7])
    codes = torch.randint(fmt.codebook_size, (3, 2, 11, fmt.num_codes, fmt.num_subvectors(64)), dtype=torch.int32)
    vectors = dequantize(codes, table, scales)
    found = quantize(vectors, table, scales)
    assert found.dtype == torch.int32
    assert torch.equal(found, codes)


def test_dequantize_is_the_sum_of_the_levels():
    table, scale = centroids_of("d4b8x2", head_dim=16)
    codes = torch.randint(256, (2, 2, 5, 2, 4), dtype=torch.int32)
    vectors = dequantize(codes, table, scale)
    for b in range(2):
        for h in range(2):
            for t in range(5):
                for s in range(4):
                    parts = [scale[h] * table[h, level, codes[b, h, t, level, s]].float() for level in range(2)]
                    # Two rounded products and a sum: equal to the last bit because the order is the same.
                    assert torch.equal(vectors[b, h, t, 4 * s : 4 * s + 4], parts[0] + parts[1])


@pytest.mark.parametrize("name", FORMATS)
def test_distance_reached_equals_a_float64_search(name):
    fmt = parse_format(name)
    table, scale = centroids_of(name)
    vectors = torch.randn(1, 2, 50, 64)
    codes = quantize(vectors, table, scale)
    for head in range(2):
        rest = vectors[0, head].double().view(-1, fmt.subvector_dim)
        for level in range(fmt.num_codes):
            real = table[head, level].double() * scale[head].double()
            distance = (rest.unsqueeze(1) - real.unsqueeze(0)).square().sum(-1)
            chosen = codes[0, head, :, level].reshape(-1).long()
            reached = distance.gather(1, chosen.unsqueeze(1)).squeeze(1)
            # A score x.c - |c|^2/2 is a sum of d + 1 terms in float32, in units of the scale, so two candidates
            # are told apart up to 2 (d + 2) eps of the largest term; a distance is twice a score.
            largest = (rest.norm(dim=1) * real.norm(dim=1).max()) + real.square().sum(1).max()
            assert (reached <= distance.min(1).values + 4 * (fmt.subvector_dim + 2) * EPS * largest).all()
            rest = rest - real[chosen]


def test_more_bits_less_error():
    """On one Gaussian sample: 1, 1.25, 1.5 bits over 8 elements, then 2 and 4 bits over 4, with sampled centroids."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(1, 1, 600, 64, generator=generator)
    errors = []
    for bits in (1, 1.25, 1.5, 2, 4):
        fmt = parse_format(bits)
        levels = []
        spread = 1.0
        for _ in range(fmt.num_codes):
            sample = torch.randn(fmt.codebook_size, fmt.subvector_dim, generator=generator) * spread
            levels.append(sample)
            spread *= 0.5
        table = (torch.stack(levels).unsqueeze(0) * 30).round().clamp(-127, 127).to(torch.int8)
        scale = torch.tensor([1 / 30])
        error = (dequantize(quantize(vectors, table, scale), table, scale) - vectors).square().mean()
        errors.append(error.item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 3


@pytest.mark.parametrize("name", ["d2b8", "d4b8x2", "d8b12"])
def test_ties_go_to_the_lowest_index(name):
    fmt = parse_format(name)
    table = torch.zeros(1, fmt.num_codes, fmt.codebook_size, fmt.subvector_dim, dtype=torch.int8)
    # Duplicates at 40, 41 and the end; and the vector 0 is equally far from +3 (7) and -3 (5).
    table[0, 0, :, 0] = 100
    table[0, 0, [40, 41, fmt.codebook_size - 1], 0] = 20
    table[0, 0, 5, 0], table[0, 0, 7, 0] = -3, 3
    near_twenty, middle = torch.zeros(fmt.subvector_dim), torch.zeros(fmt.subvector_dim)
    near_twenty[0] = 20
    vectors = torch.cat([near_twenty, middle]).repeat(64 // (2 * fmt.subvector_dim)).view(1, 1, 1, 64)
    codes = quantize(vectors, table, torch.ones(1))
    assert torch.equal(codes[0, 0, 0, 0, 0::2].unique(), torch.tensor([40], dtype=torch.int32))
    assert torch.equal(codes[0, 0, 0, 0, 1::2].unique(), torch.tensor([5], dtype=torch.int32))
    if fmt.num_codes > 1:
        assert not codes[0, 0, 0, 1].any()


def test_the_result_does_not_depend_on_how_the_search_is_cut(monkeypatch):
    table, scale = centroids_of("d4b8x2")
    vectors = torch.randn(2, 2, 33, 64)
    whole = quantize(vectors, table, scale)
    monkeypatch.setattr(quantizer, "_BATCHED_SCORES", 0)
    one_by_one = quantize(vectors, table, scale)
    monkeypatch.setattr(quantizer, "_CPU_SCORES", 256 * 7)
    pieces = quantize(vectors, table, scale)
    assert torch.equal(whole, one_by_one)
    assert torch.equal(whole, pieces)


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_scores_give_the_distance_to_the_nearest(count):
    points, centroids = torch.randn(2, count, 4), torch.randn(2, 50, 4)
    index, score = nearest_centroids(points, centroids)
    assert (index.shape, index.dtype, score.shape) == ((2, count), torch.int64, (2, count))
    distance = torch.cdist(points.double(), centroids.double()).square()
    reached = distance.gather(2, index.unsqueeze(-1)).squeeze(-1)
    # |x|^2 - 2 score is a sum of terms below 2**6 for these points, a dozen roundings each.
    tolerance = 2**6 * 12 * EPS
    torch.testing.assert_close((points.square().sum(-1) - 2 * score).double(), reached, rtol=0, atol=tolerance)
    if count:
        torch.testing.assert_close(reached, distance.amin(-1), rtol=0, atol=tolerance)


def test_the_search_holds_a_bounded_number_of_scores(monkeypatch):
    formed = []
    product = torch.baddbmm

    def counting(*args):
        formed.append(product(*args))
        return formed[-1]

    monkeypatch.setattr(torch, "baddbmm", counting)
    nearest_centroids(torch.randn(3, 10_000, 2), torch.randn(3, 256, 2))
    assert max(scores.numel() for scores in formed) <= 1 << 20
    assert sum(scores.numel() for scores in formed) == 3 * 10_000 * 256


@pytest.mark.gpu
def test_a_gpu_finds_what_a_cpu_finds():
    table, scale = centroids_of("d4b8x2")
    vectors = torch.randn(2, 2, 500, 64)
    expected = quantize(vectors, table, scale)
    found = quantize(vectors.cuda(), table.cuda(), scale.cuda()).cpu()
    # Two centroids may be equally near to a rounding.
    assert (found != expected).float().mean() < 1e-3


def test_int8_is_off_by_half_a_step_at_most():
    centroids = torch.randn(3, 2, 256, 4) * torch.tensor([1e-3, 1.0, 1e3]).view(3, 1, 1, 1)
    codes, scale = round_to_int8(centroids)
    assert codes.dtype == torch.int8
    assert codes.abs().amax((1, 2, 3)).tolist() == [127] * 3
    error = (codes.float() * scale.view(3, 1, 1, 1) - centroids).abs().amax((1, 2, 3))
    assert (error <= scale * 0.5 * (1 + 1e-5)).all()
    again = round_to_int8(codes.float() * scale.view(3, 1, 1, 1))
    assert torch.equal(again[0], codes)
    assert round_to_int8(torch.zeros(1, 4))[1].item() == 1


def test_quantizing_what_was_dequantized_changes_nothing():
    table = distinct_centroids(parse_format(2))
    scale = torch.tensor([0.01, 0.2])
    vectors = torch.randn(1, 2, 20, 64)
    once = dequantize(quantize(vectors, table, scale), table, scale)
    assert torch.equal(dequantize(quantize(once, table, scale), table, scale), once)


def test_heads_are_independent():
    table, scale = centroids_of("d4b8", heads=3)
    vectors = torch.randn(2, 3, 9, 64)
    codes = quantize(vectors, table, scale)
    for head in range(3):
        alone = quantize(vectors[:, head : head + 1], table[head : head + 1], scale[head : head + 1])
        # The same float32 products in another batch shape may be rounded differently; a tie decided otherwise would
        # show here, and random centroids have none.
        assert torch.equal(codes[:, head : head + 1], alone)


def test_non_contiguous_vectors():
    table, scale = centroids_of("d4b8")
    vectors = torch.randn(1, 9, 2, 64).transpose(1, 2)
    assert torch.equal(quantize(vectors, table, scale), quantize(vectors.contiguous(), table, scale))
