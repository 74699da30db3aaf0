# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""ops/reference.py against a naive float64 oracle that shares no code with it."""

import pytest
import torch
from cache_oracle import decode_attention as oracle
from cache_oracle import empty_buffers, filled_buffers, stored_tokens
from tiny_codebooks import random_layer

from vecinfer_hf.ops import reference


FORMATS = ["d2b8", "d4b8", "d4b8x2", "d8b8", "d8b10", "d8b12"]


def states(batch, heads, tokens, dim, dtype=torch.float32):
    return torch.randn(2, batch, heads, tokens, dim).to(dtype)


def compare(query, buffers, codebook, residual, scale=0.25, softcap=0.0, sink_logits=None):
    output, lse = reference.decode_attention(query, buffers, codebook, scale, softcap=softcap, sink_logits=sink_logits)
    wanted, wanted_lse, bound, lse_bound = oracle(query, buffers, codebook, residual, scale, softcap, sink_logits)
    assert output.dtype == query.dtype
    assert lse.dtype == torch.float32
    assert output.shape == (*query.shape[:3], buffers.ring_values.shape[3])
    assert lse.shape == query.shape[:3]
    error = (output.double() - wanted).abs().max().item()
    # The result is rounded once to the query's dtype.
    assert error <= bound + torch.finfo(query.dtype).eps * wanted.abs().max().item() / 2, f"{error} > {bound}"
    blind = wanted_lse == -torch.inf
    assert torch.equal(lse == -torch.inf, blind)
    assert not output[blind].any()
    lse, wanted_lse = lse.double()[~blind], wanted_lse[~blind]
    assert torch.allclose(lse, wanted_lse, rtol=torch.finfo(torch.float32).eps, atol=lse_bound)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 11, 12, 13, 31, 32, 33, 43, 44, 45, 63, 77])
def test_lengths(length):
    codebook = random_layer(1, 16, mean=True)
    buffers = filled_buffers(codebook, *states(1, 1, max(length, 1), 16), [length], 4, 8)
    compare(torch.randn(1, 2, 1, 16), buffers, codebook, 8)


@pytest.mark.parametrize(("sinks", "residual"), [(0, 0), (0, 8), (4, 0), (3, 7), (1, 1), (60, 5), (4, 60)])
def test_any_number_of_sinks_and_any_window(sinks, residual):
    codebook = random_layer(1, 16)
    buffers = filled_buffers(codebook, *states(1, 1, 50, 16), [50], sinks, residual)
    compare(torch.randn(1, 2, 3, 16), buffers, codebook, residual)


@pytest.mark.parametrize("queries", range(1, 17))
def test_queries_are_causal_among_themselves(queries):
    codebook = random_layer(1, 16)
    buffers = filled_buffers(codebook, *states(1, 1, 49, 16), [49], 4, 16)
    compare(torch.randn(1, 1, queries, 16), buffers, codebook, 16)


@pytest.mark.parametrize(("key", "value"), [(name, name) for name in FORMATS] + [("d4b8x2", "d8b12")])
@pytest.mark.parametrize("head_dim", [64, 80])
def test_formats_and_head_sizes(key, value, head_dim):
    codebook = random_layer(2, head_dim, key, value, mean=True)
    buffers = filled_buffers(codebook, *states(1, 2, 41, head_dim), [41], 2, 3)
    compare(torch.randn(1, 4, 1, head_dim), buffers, codebook, 3, scale=head_dim**-0.5)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("value_kind", [None, "smooth_scale", "matrix"])
@pytest.mark.parametrize("kind", ["smooth_scale", "matrix"])
def test_transforms_and_means(kind, value_kind, mean):
    codebook = random_layer(2, 16, kind=kind, value_kind=value_kind, mean=mean)
    buffers = filled_buffers(codebook, *states(2, 2, 45, 16), [45, 45], 4, 8)
    compare(torch.randn(2, 4, 2, 16), buffers, codebook, 8)


@pytest.mark.parametrize(
    ("key_dim", "value_dim", "key", "value"),
    [
        (64, 32, "d4b8", "d4b8"),
        (16, 80, "d8b8", "d4b8x2"),
        (96, 64, "d4b8", "d8b12"),
        (80, 96, "d2b8", "d8b8"),
    ],
)
@pytest.mark.parametrize("value_kind", [None, "smooth_scale", "matrix"])
def test_values_of_another_head_size(key_dim, value_dim, key, value, value_kind):
    codebook = random_layer(2, key_dim, key, value, mean=True, value_kind=value_kind, value_dim=value_dim)
    keys, values = torch.randn(2, 2, 49, key_dim), torch.randn(2, 2, 49, value_dim)
    buffers = filled_buffers(codebook, keys, values, [49, 20], 4, 8)
    # The last tokens come one call after the other, so that some leave the ring.
    for token in range(3):
        new = torch.randn(2, 2, 1, key_dim), torch.randn(2, 2, 1, value_dim)
        reference.append(*new, buffers, codebook)
        assert torch.equal(buffers.ring_values[:, :, (49 - 4 + token) % 8][0], new[1][0, :, 0])
    assert buffers.quantized_lengths.tolist() == [40, 11]
    compare(torch.randn(2, 4, 2, key_dim), buffers, codebook, 8, scale=key_dim**-0.5)


@pytest.mark.parametrize("softcap", [0.0, 0.7, 50.0])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_softcap_and_sink_logits(softcap, with_sinks):
    codebook = random_layer(2, 16)
    buffers = filled_buffers(codebook, *states(2, 2, 45, 16), [45, 0], 4, 8)
    sinks = torch.tensor([3.0, -2.0, 0.0, 40.0]) if with_sinks else None
    compare(torch.randn(2, 4, 1, 16), buffers, codebook, 8, softcap=softcap, sink_logits=sinks)


@pytest.mark.parametrize("queries", [1, 4])
def test_ragged_rows(queries):
    lengths = [0, 1, 4, 5, 12, 13, 33, 60]
    codebook = random_layer(1, 16, mean=True)
    buffers = filled_buffers(codebook, *states(len(lengths), 1, 60, 16), lengths, 4, 8)
    compare(torch.randn(len(lengths), 2, queries, 16), buffers, codebook, 8)


@pytest.mark.parametrize("group", [1, 3, 7])
def test_query_heads_read_their_own_group(group):
    codebook = random_layer(3, 16)
    buffers = filled_buffers(codebook, *states(1, 3, 20, 16), [20], 2, 5)
    compare(torch.randn(1, 3 * group, 1, 16), buffers, codebook, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_rounded_only_at_the_end(dtype):
    codebook = random_layer(2, 16)
    buffers = filled_buffers(codebook, *states(1, 2, 45, 16, dtype), [45], 4, 8)
    compare(torch.randn(1, 4, 2, 16).to(dtype), buffers, codebook, 8)


def test_large_scores_do_not_overflow():
    codebook = random_layer(1, 16)
    buffers = filled_buffers(codebook, *states(1, 1, 45, 16), [45], 4, 8)
    compare(torch.randn(1, 2, 2, 16) * 1e4, buffers, codebook, 8)


def test_after_a_crop_the_window_is_short():
    """Lengths moved back into the codes: what lies behind them in ring and tiles is not seen."""
    codebook = random_layer(1, 16)
    buffers = filled_buffers(codebook, *states(3, 1, 60, 16), [60, 60, 60], 4, 8)
    buffers.lengths.copy_(torch.tensor([35, 53, 3]))
    buffers.quantized_lengths.copy_(torch.tensor([31, 48, 0]))
    compare(torch.randn(3, 2, 2, 16), buffers, codebook, 8)


def test_what_lies_past_the_end_is_never_read():
    codebook = random_layer(1, 16)
    buffers = filled_buffers(codebook, *states(1, 1, 20, 16), [20], 4, 8)
    query = torch.randn(1, 2, 1, 16)
    before = reference.decode_attention(query, buffers, codebook, 0.25)
    buffers.codes[:, :, 0] = buffers.codes[:, :, 0].clone()
    spoiled = buffers._replace(codes=torch.cat([buffers.codes, torch.full_like(buffers.codes, 255)], dim=2))
    longer = filled_buffers(codebook, *states(1, 1, 6, 16), [6], 4, 8)
    longer.ring_keys[:, :, 2:] = float("inf")
    longer.ring_values[:, :, 2:] = 1e30
    longer.ring_keys[:, :, 2:] = 1e30
    for first, second in zip(before, reference.decode_attention(query, spoiled, codebook, 0.25), strict=True):
        assert torch.equal(first, second)
    assert reference.decode_attention(query, longer, codebook, 0.25)[0].abs().max() < 1e3


@pytest.mark.parametrize(("start", "length"), [(0, 1), (0, 70), (5, 3), (31, 2), (32, 32), (33, 37), (64, 6), (7, 0)])
@pytest.mark.parametrize("kind", ["smooth_scale", "matrix"])
def test_dequantize_reads_any_range(kind, start, length):
    codebook = random_layer(2, 16, "d8b12", "d4b8x2", kind=kind, value_kind=kind, mean=True)
    buffers = filled_buffers(codebook, *states(2, 2, 70, 16), [70, 70], 0, 0)
    keys, values = reference.dequantize(buffers, codebook, start, length, torch.float32)
    assert keys.shape == values.shape == (2, 2, length, 16)
    for row in range(2):
        for head in range(2):
            wanted = stored_tokens(buffers, codebook, 0, row, head)
            for got, want in zip((keys, values), wanted, strict=True):
                want = want[start : start + length]
                # A sum of 16 products in float32, condition of the transform below 3, plus the mean.
                bound = 3 * (16 + 6) * torch.finfo(torch.float32).eps * wanted[0].norm(dim=1).max().clamp(min=10)
                assert torch.allclose(got[row, head].double(), want, rtol=0, atol=bound.item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_dequantize_rounds_once(dtype):
    codebook = random_layer(2, 16)
    buffers = filled_buffers(codebook, *states(1, 2, 40, 16), [40], 0, 0)
    exact = reference.dequantize(buffers, codebook, 0, 40, torch.float32)
    for low, high in zip(reference.dequantize(buffers, codebook, 0, 40, dtype), exact, strict=True):
        assert torch.equal(low, high.to(dtype))


@pytest.mark.parametrize("name", FORMATS)
def test_quantize_writes_only_its_own_slots(name):
    codebook = random_layer(2, 16, name, name)
    keys, values = states(3, 2, 50, 16)
    buffers = filled_buffers(codebook, keys, values, [50] * 3, 0, 0)
    before = [reference.dequantize(buffers, codebook, 0, 50, torch.float32)]
    reference.quantize(
        *states(3, 2, 9, 16),
        buffers,
        torch.tensor([30, 0, 7], dtype=torch.int32),
        torch.tensor([4, 0, 9], dtype=torch.int32),
        torch.tensor([5, 3, 0], dtype=torch.int32),
        codebook,
    )
    after = reference.dequantize(buffers, codebook, 0, 50, torch.float32)
    changed = torch.zeros(3, 50, dtype=torch.bool)
    changed[0, 30:34] = changed[2, 7:16] = True
    for old, new in zip(before[0], after, strict=True):
        same = (old == new).all(-1).all(1)
        assert same[~changed].all()
        assert not same[changed].all()


def test_quantize_takes_the_tokens_it_is_told():
    codebook = random_layer(2, 16)
    keys, values = states(1, 2, 12, 16)
    buffers = empty_buffers(codebook, 1, 0, 0, 32)
    other = buffers._replace(codes=buffers.codes.clone())
    place = [torch.tensor([number], dtype=torch.int32) for number in (3, 5, 6)]
    reference.quantize(keys, values, buffers, *place, codebook)
    place[2].zero_()
    reference.quantize(keys[:, :, 6:], values[:, :, 6:], other, *place, codebook)
    assert torch.equal(buffers.codes, other.codes)
    assert buffers.codes.any()
