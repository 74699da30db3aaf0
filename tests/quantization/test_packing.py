# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""packing.py: every code survives, none overlaps another, and the bytes lie where the kernels read them."""

import itertools

import pytest
import torch

from vecinfer_hf.quantization.formats import parse_format
from vecinfer_hf.quantization.packing import TILE, bytes_per_tile, pack, padded_subvectors, plane_bytes, unpack


FORMATS = ["d2b8", "d4b8", "d4b8x2", "d8b8", "d8b10", "d8b12"]
HEAD_DIMS = [16, 64, 80, 96, 112, 128, 256]


def random_codes(fmt, head_dim, lead=(2, 3), tiles=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (*lead, tiles * TILE, fmt.num_codes, fmt.num_subvectors(head_dim))
    return torch.randint(fmt.codebook_size, shape, generator=generator, dtype=torch.int32)


def written_position(token, sub, num_subvectors, side):
    """Position of one code in its plane, from the formulas of the storage layout, one number at a time."""
    multiple = 4 if side == "key" else 8
    padded = -(-num_subvectors // multiple) * multiple
    half, row = token // 16, token % 16
    if side == "key":
        per_lane = padded // 4
        lane = (row % 8) * 4 + sub // per_lane
        offset = (half * 2 + row // 8) * per_lane + sub % per_lane
        length = 4 * per_lane
    else:
        per_lane = padded // 8
        lane = (sub // per_lane) * 4 + (row % 8) // 2
        offset = (half * 4 + (row % 2) * 2 + row // 8) * per_lane + sub % per_lane
        length = 8 * per_lane
    chunk = 16 if length % 16 == 0 else 8 if length % 8 == 0 else 4
    return (offset // chunk) * 32 * chunk + lane * chunk + offset % chunk


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize(
    ("key", "value"), [(name, name) for name in FORMATS] + [("d2b8", "d8b12"), ("d8b10", "d4b8x2")]
)
def test_round_trip_is_exact(key, value, head_dim):
    key, value = parse_format(key), parse_format(value)
    keys, values = random_codes(key, head_dim, seed=1), random_codes(value, head_dim, seed=2)
    tiles = pack(keys, values, key, value, head_dim)
    assert tiles.dtype == torch.uint8
    assert tiles.shape == (2, 3, 2, bytes_per_tile(key, value, head_dim))
    back_keys, back_values = unpack(tiles, key, value, head_dim)
    assert torch.equal(back_keys, keys)
    assert torch.equal(back_values, values)


@pytest.mark.parametrize(("key_dim", "value_dim"), [(128, 64), (64, 128), (80, 96), (16, 256)])
@pytest.mark.parametrize(("key", "value"), [("d4b8", "d4b8"), ("d8b12", "d4b8x2"), ("d2b8", "d8b10")])
def test_values_of_another_head_size(key, value, key_dim, value_dim):
    """Keys lie as beside values of their own size, values as beside keys of theirs."""
    key, value = parse_format(key), parse_format(value)
    keys, values = random_codes(key, key_dim, seed=1), random_codes(value, value_dim, seed=2)
    tiles = pack(keys, values, key, value, key_dim, value_dim)
    assert tiles.shape == (2, 3, 2, bytes_per_tile(key, value, key_dim, value_dim))
    back_keys, back_values = unpack(tiles, key, value, key_dim, value_dim)
    assert torch.equal(back_keys, keys)
    assert torch.equal(back_values, values)
    key_bytes = key.num_codes * plane_bytes(key, key_dim, "key")
    other_keys, other_values = random_codes(key, value_dim, seed=3), random_codes(value, key_dim, seed=4)
    beside_keys = pack(keys, other_values, key, value, key_dim)
    beside_values = pack(other_keys, values, key, value, value_dim)
    assert torch.equal(tiles[..., :key_bytes], beside_keys[..., :key_bytes])
    start = key.num_codes * plane_bytes(key, value_dim, "key")
    assert torch.equal(tiles[..., key_bytes:], beside_values[..., start:])


def test_tiles_of_another_size_are_refused():
    fmt = parse_format("d4b8")
    tiles = pack(random_codes(fmt, 64), random_codes(fmt, 64), fmt, fmt, 64)
    with pytest.raises(ValueError, match="1024 bytes does not hold d4b8 keys of 64 elements and d4b8 values of 128"):
        unpack(tiles, fmt, fmt, 64, 128)


@pytest.mark.parametrize("name", FORMATS)
def test_extreme_codes_survive(name):
    fmt = parse_format(name)
    zeros = torch.zeros(TILE, fmt.num_codes, fmt.num_subvectors(64), dtype=torch.int32)
    full = torch.full_like(zeros, fmt.codebook_size - 1)
    for keys, values in ((zeros, full), (full, zeros)):
        back = unpack(pack(keys, values, fmt, fmt, 64), fmt, fmt, 64)
        assert torch.equal(back[0], keys)
        assert torch.equal(back[1], values)


def test_two_bits_at_128_lie_byte_by_byte_as_the_kernel_reads_them():
    """The formulas of the kernel's storage layout for D 128 and d4b8: 1 KiB of keys, then 1 KiB of values."""
    fmt = parse_format("d4b8")
    keys, values = random_codes(fmt, 128, (), 1, seed=3), random_codes(fmt, 128, (), 1, seed=4)
    expected = torch.empty(2048, dtype=torch.uint8)
    written = set()
    for token in range(32):
        i, r = token // 16, token % 16
        for s in range(32):
            lane = (r % 8) * 4 + s // 8
            key_byte = i * 512 + lane * 16 + (r // 8) * 8 + s % 8
            lane = (s // 4) * 4 + (r % 8) // 2
            value_byte = 1024 + i * 512 + lane * 16 + ((r % 2) * 2 + r // 8) * 4 + s % 4
            expected[key_byte] = keys[token, 0, s]
            expected[value_byte] = values[token, 0, s]
            written |= {key_byte, value_byte}
    assert written == set(range(2048))
    assert torch.equal(pack(keys, values, fmt, fmt, 128)[0], expected)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("name", FORMATS)
def test_bytes_follow_the_written_formulas(name, head_dim):
    """Every format and head size against the explicit position and bit formulas, the high planes included."""
    fmt = parse_format(name)
    keys, values = random_codes(fmt, head_dim, (), 1, seed=5), random_codes(fmt, head_dim, (), 1, seed=6)
    tile = pack(keys, values, fmt, fmt, head_dim)[0]
    subs, base, extra = fmt.num_subvectors(head_dim), 0, fmt.bits_per_code - 8
    for side, codes in (("key", keys), ("value", values)):
        padded = padded_subvectors(fmt, head_dim, side)
        for level in range(fmt.num_codes):
            positions = [[written_position(token, sub, subs, side) for sub in range(subs)] for token in range(32)]
            flat = list(itertools.chain.from_iterable(positions))
            assert len(set(flat)) == len(flat), "two codes share a place"
            assert max(flat) < 32 * padded
            position, code = torch.tensor(flat), codes[:, level].flatten()
            assert torch.equal(tile[base + position].int(), code & 0xFF)
            if extra:
                per_byte = 8 // extra
                byte = tile[base + 32 * padded + position // per_byte].int()
                assert torch.equal((byte >> ((position % per_byte) * extra)) & (2**extra - 1), code >> 8)
            base += 32 * padded * fmt.bits_per_code // 8
    assert base == tile.numel() == bytes_per_tile(fmt, fmt, head_dim)


@pytest.mark.parametrize("name", FORMATS)
def test_changing_one_code_changes_only_its_own_bytes(name):
    fmt = parse_format(name)
    keys, values = random_codes(fmt, 80, (), 1, seed=7), random_codes(fmt, 80, (), 1, seed=8)
    before = pack(keys, values, fmt, fmt, 80)
    keys[17, -1, 3] ^= fmt.codebook_size - 1
    changed = (pack(keys, values, fmt, fmt, 80) != before).sum()
    assert changed == (1 if fmt.bits_per_code == 8 else 2)


@pytest.mark.parametrize(
    ("name", "head_dim", "padding"), [("d4b8", 128, 1.0), ("d4b8", 64, 1.0), ("d8b8", 80, 14 / 10), ("d2b8", 80, 1.0)]
)
def test_true_size(name, head_dim, padding):
    """A tile takes exactly its bits when the sub-vectors fill it; at head size 80 keys pad 10 to 12, values to 16."""
    fmt = parse_format(name)
    exact = 32 * head_dim * 2 * fmt.bits_per_element / 8
    assert bytes_per_tile(fmt, fmt, head_dim) == round(exact * padding)
    assert plane_bytes(fmt, head_dim, "key") % 16 == 0


def test_part_of_a_tile_is_refused():
    fmt = parse_format(2)
    codes = torch.zeros(31, 1, 16, dtype=torch.int32)
    with pytest.raises(ValueError, match="31 tokens"):
        pack(codes, codes, fmt, fmt, 64)


def test_non_contiguous_input_and_any_integer_dtype():
    fmt = parse_format("d8b12")
    keys, values = random_codes(fmt, 64, seed=9), random_codes(fmt, 64, seed=10)
    expected = pack(keys, values, fmt, fmt, 64)
    strided = keys.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    assert torch.equal(pack(strided.long(), values.to(torch.int16), fmt, fmt, 64), expected)
    wide = torch.stack([expected, expected], dim=-1)[..., 0]
    assert torch.equal(unpack(wide, fmt, fmt, 64)[0], keys)
