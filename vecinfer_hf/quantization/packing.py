# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Where every code lies in memory. Only this file and its CUDA twin, vecinfer_cuda/common/packing.cuh, know it.

A tile holds 32 tokens of one key/value head: the key planes, then the value planes, one plane per additive code.
Keys and values may differ in format and in head size.
A plane holds the low 8 bits of every code in the order in which a warp of the attention kernel reads them, then,
for codes wider than 8 bits, the high bits of the same positions packed little-endian. Nothing here looks at centroids.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from .formats import CodeFormat


TILE = 32
"""Tokens per tile."""


def padded_subvectors(fmt: CodeFormat, head_dim: int, side: str) -> int:
    """Return the sub-vectors a plane has room for: keys in multiples of 4, values in multiples of 8."""
    multiple = {"key": 4, "value": 8}[side]
    return -(-fmt.num_subvectors(head_dim) // multiple) * multiple


def plane_bytes(fmt: CodeFormat, head_dim: int, side: str) -> int:
    """Return the bytes of one plane (one additive code of one tile)."""
    return TILE * padded_subvectors(fmt, head_dim, side) * fmt.bits_per_code // 8


def bytes_per_tile(
    key_format: CodeFormat, value_format: CodeFormat, key_head_dim: int, value_head_dim: int | None = None
) -> int:
    """Return the bytes of a tile: 32 tokens of one head, keys and values.

    Args:
        key_format: format of the keys.
        value_format: format of the values.
        key_head_dim: elements of a key.
        value_head_dim: elements of a value; default `key_head_dim`.
    """
    return plane_bytes(key_format, key_head_dim, "key") * key_format.num_codes + (
        plane_bytes(value_format, value_head_dim or key_head_dim, "value") * value_format.num_codes
    )


@lru_cache(maxsize=64)
def _positions(num_subvectors: int, padded: int, side: str) -> torch.Tensor:
    """Position in the plane of (token, sub-vector): int64 `[32, num_subvectors]`.

    The order follows the fragments of mma.m16n8k32: a key plane gives lane `4 * row + quad` the rows `row` and
    `row + 8` of both 16-token halves for its quarter of the dimensions; a value plane gives lane `4 * group + pair`
    four tokens for its eighth of the dimensions. A lane's bytes are cut into chunks of at most 16 and the chunks of
    the 32 lanes interleaved, so that a warp reads consecutive 16-byte words.
    """
    # Kept for all later calls, whatever the first caller's default device is.
    token = torch.arange(TILE, device="cpu").unsqueeze(1)
    sub = torch.arange(num_subvectors, device="cpu").unsqueeze(0)
    half, row = token >> 4, token & 15
    if side == "key":
        per_lane = padded // 4
        lane = (row & 7) * 4 + sub // per_lane
        offset = (half * 2 + (row >> 3)) * per_lane + sub % per_lane
        length = 4 * per_lane
    else:
        per_lane = padded // 8
        lane = (sub // per_lane) * 4 + ((row & 7) >> 1)
        offset = (half * 4 + (((row & 1) << 1) | (row >> 3))) * per_lane + sub % per_lane
        length = 8 * per_lane
    chunk = next(size for size in (16, 8, 4) if length % size == 0)
    return (offset // chunk) * TILE * chunk + lane * chunk + offset % chunk


def _pack_side(codes: torch.Tensor, fmt: CodeFormat, head_dim: int, side: str) -> torch.Tensor:
    *lead, tokens, num_codes, num_subvectors = codes.shape
    padded = padded_subvectors(fmt, head_dim, side)
    position = _positions(num_subvectors, padded, side).to(codes.device).flatten()
    ordered = codes.new_zeros((*lead, tokens // TILE, num_codes, TILE * padded))
    by_tile = codes.unflatten(-3, (tokens // TILE, TILE)).transpose(-3, -2)
    ordered[..., position] = by_tile.flatten(-2)
    low = (ordered & 0xFF).to(torch.uint8)
    if fmt.bits_per_code == 8:
        return low.flatten(-2)
    high_bits = fmt.bits_per_code - 8
    fields = (ordered >> 8).unflatten(-1, (-1, 8 // high_bits))
    shifts = torch.arange(0, 8, high_bits, device=codes.device)
    high = (fields << shifts).sum(-1).to(torch.uint8)
    return torch.cat([low, high], dim=-1).flatten(-2)


def _unpack_side(planes: torch.Tensor, fmt: CodeFormat, head_dim: int, side: str) -> torch.Tensor:
    padded = padded_subvectors(fmt, head_dim, side)
    num_subvectors = fmt.num_subvectors(head_dim)
    position = _positions(num_subvectors, padded, side).to(planes.device).flatten()
    planes = planes.unflatten(-1, (fmt.num_codes, -1))
    codes = planes[..., : TILE * padded].index_select(-1, position).to(torch.int32)
    if fmt.bits_per_code > 8:
        high_bits = fmt.bits_per_code - 8
        shifts = torch.arange(0, 8, high_bits, device=planes.device, dtype=torch.int32)
        high = (planes[..., TILE * padded :].to(torch.int32).unsqueeze(-1) >> shifts) & (2**high_bits - 1)
        codes = codes | (high.flatten(-2).index_select(-1, position) << 8)
    codes = codes.unflatten(-1, (TILE, num_subvectors)).transpose(-3, -2)
    return codes.flatten(-4, -3)


def pack(
    key_codes: torch.Tensor,
    value_codes: torch.Tensor,
    key_format: CodeFormat,
    value_format: CodeFormat,
    key_head_dim: int,
    value_head_dim: int | None = None,
) -> torch.Tensor:
    """Return whole tiles holding the given codes.

    Args:
        key_codes: integers `[..., T, num_codes, num_subvectors]` with `T` a multiple of 32 and values below
            `2**bits_per_code` of `key_format`.
        value_codes: the same for values.
        key_format: format of the keys.
        value_format: format of the values.
        key_head_dim: elements of a key.
        value_head_dim: elements of a value; default `key_head_dim`.

    Returns:
        uint8 `[..., T / 32, bytes_per_tile]`.
    """
    if key_codes.shape[-3] % TILE:
        raise ValueError(f"{key_codes.shape[-3]} tokens do not fill tiles of {TILE}; pad the codes first.")
    return torch.cat(
        [
            _pack_side(key_codes.to(torch.int32), key_format, key_head_dim, "key"),
            _pack_side(value_codes.to(torch.int32), value_format, value_head_dim or key_head_dim, "value"),
        ],
        dim=-1,
    )


def unpack(
    tiles: torch.Tensor,
    key_format: CodeFormat,
    value_format: CodeFormat,
    key_head_dim: int,
    value_head_dim: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes in the given tiles; the inverse of `pack`.

    Args:
        tiles: uint8 `[..., num_tiles, bytes_per_tile]`.
        key_format: format of the keys.
        value_format: format of the values.
        key_head_dim: elements of a key.
        value_head_dim: elements of a value; default `key_head_dim`.

    Returns:
        int32 `[..., 32 * num_tiles, num_codes, num_subvectors]` for keys and for values.

    Raises:
        ValueError: if tiles of these formats and head sizes have another number of bytes.
    """
    expected = bytes_per_tile(key_format, value_format, key_head_dim, value_head_dim)
    if tiles.shape[-1] != expected:
        raise ValueError(
            f"A tile of {tiles.shape[-1]} bytes does not hold {key_format.name} keys of {key_head_dim} elements and "
            f"{value_format.name} values of {value_head_dim or key_head_dim}: that takes {expected} bytes."
        )
    key_bytes = plane_bytes(key_format, key_head_dim, "key") * key_format.num_codes
    return (
        _unpack_side(tiles[..., :key_bytes], key_format, key_head_dim, "key"),
        _unpack_side(tiles[..., key_bytes:], value_format, value_head_dim or key_head_dim, "value"),
    )
