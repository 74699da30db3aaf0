# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A row's tiles of codes, wherever they are stored: side by side in a contiguous cache, or in pages.

Owns the reference's way through a block table; packing.py owns what is inside a tile. `codes` is uint8
`[B, Hkv, num_tiles, bytes_per_tile]`, or pages `[num_pages, Hkv, tiles_per_page, bytes_per_tile]`; then `block_table`
is int32 `[B, max_pages]`.
"""

from __future__ import annotations

import torch

from ..errors import UnsupportedCallError


def read_tiles(
    codes: torch.Tensor, block_table: torch.Tensor | None, first: int, last: int, rows: list[int] | None = None
) -> torch.Tensor:
    """Return tiles `first .. last - 1` of rows, uint8 `[len(rows), Hkv, last - first, bytes_per_tile]`.

    An entry of the block table that names no page reads page 0 instead: nothing of that row lies there.

    Args:
        codes: see above.
        block_table: see above, or None.
        first: first tile.
        last: one behind the last tile.
        rows: which rows; None for all.

    Raises:
        UnsupportedCallError: if a row has no room for `last` tiles.
    """
    _check_room(codes, block_table, last)
    if block_table is None:
        return codes[:, :, first:last] if rows is None else codes[rows, :, first:last]
    pages, place = _places(codes, block_table if rows is None else block_table[rows], first, last)
    pages = torch.where((pages >= 0) & (pages < codes.shape[0]), pages, 0)
    # [rows, tiles, Hkv, bytes]: dimensions of index tensors on both sides of a slice come first.
    return codes[pages, :, place].transpose(1, 2)


def write_tiles(
    codes: torch.Tensor, block_table: torch.Tensor | None, first: int, tiles: torch.Tensor, rows: list[int]
) -> None:
    """Write whole tiles of some rows.

    Args:
        codes: see above; changed in place.
        block_table: see above, or None.
        first: the first tile.
        tiles: uint8 `[len(rows), Hkv, num_tiles, bytes_per_tile]`.
        rows: the rows.

    Raises:
        UnsupportedCallError: if a row has no room, or no page, for a tile.
    """
    last = first + tiles.shape[2]
    _check_room(codes, block_table, last)
    if block_table is None:
        codes[rows, :, first:last] = tiles
        return
    pages, place = _places(codes, block_table[rows], first, last)
    missing = pages[(pages < 0) | (pages >= codes.shape[0])]
    if missing.numel():
        raise UnsupportedCallError(
            f"block_table names page {int(missing[0])} for a tile among {first} to {last - 1} of rows {rows}, but "
            f"there are {codes.shape[0]} pages; give a row its pages before its tokens are quantized."
        )
    codes[pages, :, place] = tiles.transpose(1, 2)


def _places(
    codes: torch.Tensor, block_table: torch.Tensor, first: int, last: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return page and place in the page of each tile: int64 `[rows, tiles]` and `[tiles]`."""
    tile = torch.arange(first, last, device=codes.device)
    return block_table[:, tile // codes.shape[2]].long(), tile % codes.shape[2]


def _check_room(codes: torch.Tensor, block_table: torch.Tensor | None, last: int) -> None:
    room = codes.shape[2] if block_table is None else block_table.shape[1] * codes.shape[2]
    if last > room:
        raise UnsupportedCallError(f"Tile {last - 1} is asked for, but a row has room for {room} tiles; make room.")
