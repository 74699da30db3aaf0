# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Read the character vectors of an R package's data (`Rdata.rdx`, `Rdata.rdb`) with the standard library.

Owns R's XDR serialization as far as lists of strings and integers need it; texts.py knows which package to read.
"""

from __future__ import annotations

import gzip
import struct
import zlib


_NIL, _REFERENCE = 254, 255
_SYMBOL, _PAIRLIST, _CHARACTER, _LOGICAL, _INTEGER, _STRINGS, _LIST = 1, 2, 9, 10, 13, 16, 19
_HAS_ATTRIBUTES, _HAS_TAG = 0x200, 0x400


class _Reader:
    """Reads one serialized R object; `values` of a pairlist become a dict by tag."""

    def __init__(self, data: bytes):
        if data[:2] != b"X\n":
            raise ValueError(f"R data starts with {data[:2]!r}, but only the XDR form (b'X\\n') is read here.")
        self.data, self.offset, self.symbols = data, 2, []
        version = self.integers(3)[0]
        if version == 3:
            self.take(self.integers(1)[0])
        elif version != 2:
            raise ValueError(f"R serialization version is {version}, but only 2 and 3 are read here.")

    def take(self, count: int) -> bytes:
        piece = self.data[self.offset : self.offset + count]
        if len(piece) < count:
            raise ValueError(f"R data ends at byte {len(self.data)}, but byte {self.offset + count} was expected.")
        self.offset += count
        return piece

    def integers(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f">{count}i", self.take(4 * count))

    def item(self):
        flags = self.integers(1)[0]
        kind = flags & 0xFF
        if kind == _NIL:
            return None
        if kind == _REFERENCE:
            return self.symbols[(flags >> 8) - 1]
        if kind == _SYMBOL:
            self.symbols.append(self.item())
            return self.symbols[-1]
        if kind == _CHARACTER:
            length = self.integers(1)[0]
            return None if length < 0 else self.take(length).decode()
        if kind == _PAIRLIST:
            tag = self.item() if flags & _HAS_TAG else None
            first, rest = self.item(), self.item()
            return {tag: first, **(rest or {})}
        length = self.integers(1)[0] if kind in (_LOGICAL, _INTEGER, _STRINGS, _LIST) else -1
        if kind in (_LOGICAL, _INTEGER):
            values = self.integers(length)
        elif kind in (_STRINGS, _LIST):
            values = [self.item() for _ in range(length)]
        else:
            raise ValueError(f"R object type {kind} at byte {self.offset} is not one of those read here.")
        attributes = self.item() if flags & _HAS_ATTRIBUTES else {}
        names = attributes.get("names")
        return dict(zip(names, values, strict=True)) if names else values


def read_lazy_data(index: bytes, database: bytes) -> dict[str, list[str]]:
    """Return the objects of an R package's lazy-loaded data.

    Args:
        index: the content of `Rdata.rdx`.
        database: the content of `Rdata.rdb`.

    Returns:
        For each name its lines of text.

    Raises:
        ValueError: if the data is truncated or holds other types than lists, strings and integers.
    """
    objects = {}
    for name, (offset, length) in _Reader(gzip.decompress(index)).item()["variables"].items():
        # Each record: its unpacked size in 4 bytes, then a zlib stream.
        objects[name] = _Reader(zlib.decompress(database[offset + 4 : offset + length])).item()
    return objects
