# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Damage that no hash can know: format 1 has none, and a forger names his own. test_mutations.py has the other kind.

Each codebook is refused with a CodebookError, or its tensors are finite and of the original's shapes.
"""

import json
import random
from contextlib import suppress

import pytest
from codebook_edits import CONFIG_NAME, TENSORS_NAME, name_the_hash
from format_1 import save_format_1
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf import Codebook, CodebookError


VALUES = [None, True, 0, -1, 1, 7, 10**9, 10**30, 0.5, 1e300, "", "x", "d8b8", [], {}, [1], {"a": 1}]


def places(value, path=()):
    """Every path into a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield from places(part, (*path, name))


def mutated(description, rng):
    """The description with one value replaced, removed or added; None if nothing changed."""
    before = json.dumps(description)
    path = rng.choice([path for path in places(description) if path])
    parent = description
    for name in path[:-1]:
        parent = parent[name]
    kind = rng.choice(("replace", "remove", "add"))
    if kind == "replace":
        parent[path[-1]] = rng.choice(VALUES)
    elif kind == "remove":
        del parent[path[-1]]
    elif isinstance(parent, dict):
        parent[rng.choice(("speed", "index", "name"))] = rng.choice(VALUES)
    else:
        parent.append(rng.choice(VALUES))
    return description if json.dumps(description) != before else None


def damaged(content, rng):
    """The bytes with some flipped, cut off, or inserted."""
    content = bytearray(content)
    kind = rng.choice(("flip", "cut", "insert"))
    place = rng.randrange(len(content))
    if kind == "flip":
        for _ in range(rng.choice((1, 8))):
            content[rng.randrange(min(len(content), 4096))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[place : place + rng.choice((1, 100, len(content)))]
    else:
        content[place:place] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 50))))
    return bytes(content)


def check(directory, original, text):
    """Return whether the directory loads; its tensors must be finite then, and it can be saved."""
    message = ""
    try:
        loaded = Codebook.from_pretrained(directory)
    except CodebookError as error:
        message = str(error)
    if message:
        assert str(directory) in message
        return False
    assert loaded.head_shape(0) == original.head_shape(0)
    for index, layer in loaded.layers.items():
        for name, tensor in layer._asdict().items():
            if tensor is not None:
                assert tensor.isfinite().all(), (name, text)
                assert tensor.shape == getattr(original.layers[index], name).shape
    # Format 1 was not compared with its options; what contradicts them is not saved.
    with suppress(*([CodebookError] if '"format_version": 1' in text else [])):
        loaded.save_pretrained(directory.parent / "again")
    return True


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("format_version", [1, 2])
def test_what_no_hash_can_know(tmp_path, format_version, count):
    rng = random.Random(format_version)
    original = random_codebook(tiny_config("llama"), kind="matrix", mean=True)
    original.provenance = {"errors": [{"layer": 0, "key": 0.1, "value": 0.1}], "texts": [{"name": "a", "tokens": 3}]}
    directory = tmp_path / "codebook"
    if format_version == 1:
        save_format_1(original, directory)
    else:
        original.save_pretrained(directory)
    config, tensors = (directory / CONFIG_NAME).read_bytes(), (directory / TENSORS_NAME).read_bytes()
    loads = dict.fromkeys(("value", "text", "tensors"), 0)
    for _ in range(count):
        (directory / CONFIG_NAME).write_bytes(config)
        (directory / TENSORS_NAME).write_bytes(tensors)
        what = rng.choice(list(loads))
        if what == "value":
            description = mutated(json.loads(config), rng)
            if description is None:
                continue
            (directory / CONFIG_NAME).write_text(json.dumps(description))
        elif what == "text":
            (directory / CONFIG_NAME).write_bytes(damaged(config, rng))
        else:
            content = damaged(tensors, rng)
            if content == tensors:
                continue
            (directory / TENSORS_NAME).write_bytes(content)
            name_the_hash(directory)
        loads[what] += check(directory, original, (directory / CONFIG_NAME).read_text(errors="replace")[:2000])
    assert sum(loads.values()) < count / 2, loads
