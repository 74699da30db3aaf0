# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged copies of a codebook's directory: each kind of damage, and any number of each by a seed."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np


CONFIG, TENSORS = "config.json", "codebook.safetensors"
NASTY = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**400,
    -(10**30),
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "2",
    "\x00",
    "d999b999",
    "../../etc/passwd",
    "ä" * 5000,
    [],
    [[]],
    [1, 2],
    {},
    {"a": {"b": 1}},
)
"""Values that JSON can hold and that are seldom expected."""


def read_header(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file and where its tensors begin."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), 8 + size


def paths_of(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the places of all values inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in paths_of(part, (*path, key)))]


def replaced(value: Any, path: tuple, new: Any) -> Any:
    """Return a JSON value with what stands at `path` replaced."""
    if not path:
        return new
    value[path[0]] = replaced(value[path[0]], path[1:], new)
    return value


# Kinds of damage: each takes a directory and a Random and changes files in place.


def flip_bytes(directory: Path, random: Random) -> None:
    """Flip one to eight bits anywhere in one of the files."""
    path = directory / random.choice((CONFIG, TENSORS, TENSORS))
    data = bytearray(path.read_bytes())
    for _ in range(random.randint(1, 8)):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(bytes(data))


def flip_in_tensors(directory: Path, random: Random) -> None:
    """Flip one bit of one tensor's data."""
    path = directory / TENSORS
    data = bytearray(path.read_bytes())
    data[random.randrange(read_header(bytes(data))[1], len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(bytes(data))


def swap_tensors(directory: Path, random: Random) -> None:
    """Exchange the data of two tensors of the same size, so that the header stays right."""
    path = directory / TENSORS
    data = bytearray(path.read_bytes())
    header, start = read_header(bytes(data))
    places = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
    for _ in range(100):
        (a, b), (c, d) = random.sample(places, 2)
        if b - a == d - c and data[start + a : start + b] != data[start + c : start + d]:
            first = bytes(data[start + a : start + b])
            data[start + a : start + b] = data[start + c : start + d]
            data[start + c : start + d] = first
            break
    path.write_bytes(bytes(data))


def absurd_numbers(directory: Path, random: Random) -> None:
    """Write a number that is finite, and absurd, or none at all, into a floating-point tensor."""
    path = directory / TENSORS
    data = bytearray(path.read_bytes())
    header, start = read_header(bytes(data))
    floats = [entry for name, entry in header.items() if name != "__metadata__" and entry["dtype"] == "F32"]
    begin, end = random.choice(floats)["data_offsets"]
    place = start + begin + 4 * random.randrange((end - begin) // 4)
    number = random.choice((3e38, -3e38, 1e-45, 1e30, 1e-30, 0.0, -1.0, float("nan"), float("inf"), 1e10))
    data[place : place + 4] = np.float32(number).tobytes()
    path.write_bytes(bytes(data))


def truncate(directory: Path, random: Random) -> None:
    """Cut a file off anywhere, or lengthen it."""
    path = directory / random.choice((CONFIG, TENSORS))
    data = path.read_bytes()
    cut = random.choice((0, 1, 7, 8, 9, len(data) - 1, random.randrange(len(data))))
    path.write_bytes(data[:cut] if random.random() < 0.8 else data + bytes(random.randrange(1, 100)))


def nested_json(directory: Path, random: Random) -> None:
    """Nest values deeper than a parser's stack, somewhere in config.json or in the tensors' header."""
    depth = random.choice((10, 1000, 100_000))
    bracket = random.choice(("[]", '{"a":}'))
    opening, closing = (bracket[:-1], bracket[-1])
    nested = opening * depth + ("1" if bracket != "[]" else "") + closing * depth
    if random.random() < 0.7:
        config = json.loads((directory / CONFIG).read_text())
        key = random.choice([*config, "metrics", "provenance"])
        config[key] = "HERE"
        (directory / CONFIG).write_text(json.dumps(config).replace('"HERE"', nested))
    else:
        header = nested.encode()
        (directory / TENSORS).write_bytes(struct.pack("<Q", len(header)) + header)


def odd_text(directory: Path, random: Random) -> None:
    """Write a config.json that is no UTF-8, has a byte order mark, twice the same key, or is no JSON."""
    path = directory / CONFIG
    text = path.read_text()
    path.write_bytes(
        random.choice(
            (
                text.encode("utf-16"),
                text.encode("utf-32"),
                b"\xef\xbb\xbf" + text.encode(),
                text.encode() + b"\xff\xfe",
                b"\x80" + text.encode(),
                text.replace("{", "{'a': 1,", 1).encode(),
                (text + text).encode(),
                text.replace('"layers"', '"layers": 1, "layers"', 1).encode(),
                b"null",
                b"[]",
                b'"text"',
                b"",
                b"\x00" * 100,
                text.replace("1", "9" * 5000, 1).encode(),
                text.replace(": 2", ": NaN").encode(),
                text.replace(": 2", ": 1e999").encode(),
            )
        )
    )


def odd_values(directory: Path, random: Random) -> None:
    """Put an unexpected value, or none, in any one place of config.json."""
    path = directory / CONFIG
    config = json.loads(path.read_text())
    place = random.choice(paths_of(config)[1:])
    if random.random() < 0.2:
        holder = config
        for key in place[:-1]:
            holder = holder[key]
        del holder[place[-1]]
    else:
        config = replaced(config, place, random.choice(NASTY))
    path.write_text(json.dumps(config))


def huge_lengths(directory: Path, random: Random) -> None:
    """Let a number in config.json or in the tensors' header promise more than there is."""
    huge = random.choice((10**7, 2**31, 2**40, 2**62, 2**63 - 1, 10**25))
    if random.random() < 0.6:
        path = directory / CONFIG
        config = json.loads(path.read_text())
        numbers = [place for place in paths_of(config) if place and type(_at(config, place)) is int]
        path.write_text(json.dumps(replaced(config, random.choice(numbers), huge)))
        return
    path = directory / TENSORS
    data = path.read_bytes()
    header, start = read_header(data)
    entry = header[random.choice([name for name in header if name != "__metadata__"])]
    if random.random() < 0.5:
        entry["shape"][random.randrange(len(entry["shape"]))] = huge
    else:
        entry["data_offsets"][random.randrange(2)] = huge
    text = json.dumps(header).encode()
    size = len(text) if random.random() < 0.8 else huge % 2**64
    path.write_bytes(struct.pack("<Q", size) + text + data[start:])


def other_header(directory: Path, random: Random) -> None:
    """Change a tensor's dtype, shape, name or place in the header."""
    path = directory / TENSORS
    data = path.read_bytes()
    header, start = read_header(data)
    names = [name for name in header if name != "__metadata__"]
    name, other = random.sample(names, 2)
    change = random.randrange(6)
    if change == 0:
        header[name]["dtype"] = random.choice(("F64", "F16", "BF16", "U8", "I64", "BOOL", "X", 5, None))
    elif change == 1:
        header[name]["shape"] = random.choice(([], [0], [-1], [1], [2, 2], None, "x", header[other]["shape"]))
    elif change == 2:
        header[name]["data_offsets"] = header[other]["data_offsets"]
    elif change == 3:
        header["x" * random.choice((1, 10, 10_000))] = header.pop(name)
    elif change == 4:
        header["__metadata__"] = random.choice(({}, {"format": "tf"}, {"a": 1}, [], None, "x"))
    else:
        del header[name]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[start:])


def odd_entries(directory: Path, random: Random) -> None:
    """A directory, a broken link, a pipe's place or nothing where a file should be."""
    path = directory / random.choice((CONFIG, TENSORS))
    kind = random.randrange(5)
    if kind == 0:
        path.unlink()
        path.mkdir()
    elif kind == 1:
        path.unlink()
    elif kind == 2:
        path.unlink()
        path.symlink_to(directory / "nothing")
    elif kind == 3:
        path.unlink()
        path.symlink_to(path)
    else:
        shutil.copy(directory / random.choice((CONFIG, TENSORS)), path.with_suffix(".other"))
        path.unlink()
        path.with_suffix(".other").rename(path)


KINDS: tuple[Callable[[Path, Random], None], ...] = (
    flip_bytes,
    flip_in_tensors,
    swap_tensors,
    absurd_numbers,
    truncate,
    nested_json,
    odd_text,
    odd_values,
    huge_lengths,
    other_header,
    odd_entries,
)


def _at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value
