# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""ops/placement.py: every token in its place, however it came, quantized once, and nobody else's place touched."""

import pytest
import torch
from cache_oracle import empty_buffers
from tiny_codebooks import random_layer

from vecinfer_hf.ops import reference
from vecinfer_hf.ops.placement import store_tokens, window_span
from vecinfer_hf.quantization import packing, quantizer
from vecinfer_hf.quantization.formats import implied_format
from vecinfer_hf.quantization.transforms import apply_transform


def expected_codes(keys, values, codebook):
    """Codes of every token, `[B, Hkv, T, n, nsub]` twice."""
    return tuple(
        quantizer.quantize(apply_transform(states, transform, mean), centroids, scale)
        for states, transform, mean, centroids, scale in (
            (keys, codebook.key_transform, codebook.key_mean, codebook.key_centroids, codebook.key_centroid_scale),
            (values, codebook.value_transform, codebook.value_mean, codebook.value_centroids,
             codebook.value_centroid_scale),
        )
    )  # fmt: skip


def check_places(buffers, keys, values, lengths, quantized, sinks, residual, codebook):
    """Every stored token of every row is where the definition of CacheBuffers says, bit for bit."""
    formats = implied_format(codebook.key_centroids.shape), implied_format(codebook.value_centroids.shape)
    unpacked = packing.unpack(buffers.codes, *formats, keys.shape[-1])
    wanted = expected_codes(keys, values, codebook)
    assert buffers.lengths.tolist() == lengths
    assert buffers.quantized_lengths.tolist() == quantized
    for row, (length, coded) in enumerate(zip(lengths, quantized, strict=True)):
        for i in range(length):
            n = i - sinks
            if n < 0:
                assert torch.equal(buffers.sink_keys[row, :, i], keys[row, :, i])
                assert torch.equal(buffers.sink_values[row, :, i], values[row, :, i])
            elif n < coded:
                assert torch.equal(unpacked[0][row, :, n], wanted[0][row, :, i]), f"row {row}, code slot {n}"
                assert torch.equal(unpacked[1][row, :, n], wanted[1][row, :, i]), f"row {row}, code slot {n}"
            else:
                assert torch.equal(buffers.ring_keys[row, :, n % residual], keys[row, :, i])
                assert torch.equal(buffers.ring_values[row, :, n % residual], values[row, :, i])


class Quantizes:
    """The reference's quantize, counting how often each code slot of each row is written."""

    def __init__(self):
        self.written = {}

    def __call__(self, keys, values, buffers, starts, counts, first, codebook):
        for row, (start, count) in enumerate(zip(starts.tolist(), counts.tolist(), strict=True)):
            for slot in range(start, start + count):
                self.written[row, slot] = self.written.get((row, slot), 0) + 1
        reference.quantize(keys, values, buffers, starts, counts, first, codebook)


def store_in_pieces(keys, values, pieces, sinks, residual, codebook, quantize=reference.quantize, fill=0):
    """Store `pieces[step][row]` tokens of each row at each step."""
    batch = keys.shape[0]
    buffers = empty_buffers(codebook, batch, sinks, residual, keys.shape[2], keys.dtype, fill)
    lengths, quantized = [0] * batch, [0] * batch
    for counts in pieces:
        # Each row's next tokens, at odd places inside a wider call.
        width = max(counts) + 3
        first = [(row + len(counts)) % 3 if count else 0 for row, count in enumerate(counts)]
        part_keys, part_values = torch.full((2, batch, keys.shape[1], width, keys.shape[3]), float("nan")).to(
            keys.dtype
        )
        for row, count in enumerate(counts):
            place, source = slice(first[row], first[row] + count), slice(lengths[row], lengths[row] + count)
            part_keys[row, :, place], part_values[row, :, place] = keys[row, :, source], values[row, :, source]
        lengths, quantized = store_tokens(
            part_keys, part_values, first, list(counts), lengths, quantized, buffers, codebook, quantize
        )
    return buffers, lengths, quantized


SIZES = [(4, 8), (0, 8), (4, 0), (0, 0), (3, 7), (1, 1), (5, 33), (0, 128), (130, 4)]


@pytest.mark.parametrize(("sinks", "residual"), SIZES)
@pytest.mark.parametrize("total", [0, 1, 2, 31, 32, 33, 63, 64, 65, 100])
def test_one_call_puts_every_token_in_its_place(total, sinks, residual):
    codebook = random_layer(2, 16, mean=True)
    keys, values = torch.randn(2, 1, 2, total, 16)
    buffers, lengths, quantized = store_in_pieces(keys, values, [[total]], sinks, residual, codebook, fill=170)
    assert quantized == [max(total - sinks - residual, 0)]
    check_places(buffers, keys, values, lengths, quantized, sinks, residual, codebook)


@pytest.mark.parametrize(("sinks", "residual"), SIZES)
def test_ragged_rows_in_any_pieces(sinks, residual):
    codebook = random_layer(2, 16, "d4b8", "d8b8")
    keys, values = torch.randn(2, 3, 2, 70, 16)
    generator = torch.Generator().manual_seed(sinks + residual)
    for high in (3, 40):
        pieces, room = [], [70] * 3
        while any(room):
            counts = [min(left, int(torch.randint(0, high, (), generator=generator))) for left in room]
            room = [left - count for left, count in zip(room, counts, strict=True)]
            pieces.append(counts)
        quantize = Quantizes()
        buffers, lengths, quantized = store_in_pieces(keys, values, pieces, sinks, residual, codebook, quantize)
        check_places(buffers, keys, values, lengths, quantized, sinks, residual, codebook)
        assert set(quantize.written.values()) <= {1}, "a code was written twice"
        assert len(quantize.written) == sum(quantized)


@pytest.mark.parametrize(
    ("name", "sinks", "residual"),
    [("d4b8", 4, 8), ("d4b8", 0, 8), ("d4b8", 3, 1), ("d4b8", 4, 128), ("d4b8x2", 4, 33), ("d8b12", 4, 33)],
)
def test_one_call_chunks_and_single_tokens_give_identical_bytes(name, sinks, residual):
    codebook = random_layer(2, 64, name, name, mean=True, value_kind="matrix")
    total = 67
    keys, values = torch.randn(2, 2, 2, total, 64)
    plans = [[[total] * 2], [[17, 17]] * 3 + [[16, 16]], [[40, 40], [1, 1], [26, 26]], [[1, 1]] * total]
    one, *others = (store_in_pieces(keys, values, plan, sinks, residual, codebook)[0] for plan in plans)
    for other in others:
        for field, first, second in zip(one._fields, one, other, strict=True):
            assert torch.equal(first, second), field


@pytest.mark.parametrize("tokens", [1, 2, 5, 8])
def test_append_is_store_with_equal_counts(tokens):
    codebook = random_layer(2, 16)
    keys, values = torch.randn(2, 3, 2, 80, 16)
    start = [3, 40, 17]
    by_append = store_in_pieces(keys, values, [start], 4, 8, codebook)[0]
    by_store = store_in_pieces(keys, values, [start, [tokens] * 3], 4, 8, codebook)[0]
    new = [
        torch.stack([states[row, :, at : at + tokens] for row, at in enumerate(start)]) for states in (keys, values)
    ]
    reference.append(*new, by_append, codebook)
    for field, first, second in zip(by_append._fields, by_append, by_store, strict=True):
        assert torch.equal(first, second), field


def test_a_code_never_changes_after_it_is_written():
    codebook = random_layer(2, 16)
    keys, values = torch.randn(2, 1, 2, 90, 16)
    buffers, seen = empty_buffers(codebook, 1, 2, 8, 90), []
    for token in range(90):
        reference.append(keys[:, :, token : token + 1], values[:, :, token : token + 1], buffers, codebook)
        coded = int(buffers.quantized_lengths[0])
        codes = packing.unpack(buffers.codes, *[implied_format(codebook.key_centroids.shape)] * 2, 16)
        now = [side[:, :, :coded].clone() for side in codes]
        for before, after in zip(seen, now, strict=False):
            assert torch.equal(before, after[:, :, : before.shape[2]])
        seen = now
    assert coded == 80


def test_after_a_crop_into_the_codes_tokens_go_on_behind_them():
    """Lengths moved back: the window is shorter, codes stay codes, and new tokens overwrite what was cropped."""
    codebook = random_layer(2, 16)
    keys, values = torch.randn(2, 1, 2, 60, 16)
    buffers, lengths, quantized = store_in_pieces(keys, values, [[60]], 4, 8, codebook)
    assert quantized == [48]
    # 35 of 60 tokens remain: 4 sinks and 31 codes, nothing exact.
    lengths, quantized = [35], [31]
    new_keys, new_values = torch.randn(2, 1, 2, 30, 16)
    after_keys, after_values = torch.cat([keys[:, :, :35], new_keys], 2), torch.cat([values[:, :, :35], new_values], 2)
    for count in (1, 6, 1, 22):
        part = slice(lengths[0] - 35, lengths[0] - 35 + count)
        lengths, quantized = store_tokens(
            new_keys[:, :, part], new_values[:, :, part], [0], [count], lengths, quantized, buffers, codebook,
            reference.quantize,
        )  # fmt: skip
        assert quantized == [max(31, lengths[0] - 4 - 8)]
        check_places(buffers, after_keys, after_values, lengths, quantized, 4, 8, codebook)


def test_a_row_without_new_tokens_is_left_alone():
    codebook = random_layer(2, 16)
    keys, values = torch.randn(2, 2, 2, 50, 16)
    buffers, lengths, quantized = store_in_pieces(keys, values, [[50, 20]], 4, 8, codebook)
    before = [tensor[1].clone() for tensor in buffers]
    new_keys, new_values = torch.randn(2, 2, 2, 25, 16)
    store_tokens(
        new_keys, new_values, [0, 0], [25, 0], lengths, quantized, buffers, codebook, reference.quantize
    )  # fmt: skip
    for field, old, new in zip(buffers._fields, before, (tensor[1] for tensor in buffers), strict=True):
        assert torch.equal(old, new), field


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, 0, 0, 4, 8), (0, 0)),
        ((0, 3, 0, 4, 8), (0, 0)),
        ((0, 12, 0, 4, 8), (0, 8)),
        ((0, 13, 0, 4, 8), (1, 9)),
        ((12, 1, 0, 4, 8), (1, 9)),
        ((20, 1, 16, 4, 8), (16, 17)),
        ((5, 0, 0, 0, 0), (5, 5)),
    ],
)
def test_window_span(arguments, expected):
    assert window_span(*arguments) == expected
