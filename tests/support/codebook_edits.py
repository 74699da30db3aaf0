# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Changes to a saved codebook's files, and what a refusal to load them must be like."""

import hashlib
import json

import pytest
from safetensors.torch import load_file, save

from vecinfer_hf import Codebook, CodebookError


CONFIG_NAME, TENSORS_NAME = "config.json", "codebook.safetensors"


def edit_config(directory, change):
    """Apply `change` to the parsed config.json."""
    path = directory / CONFIG_NAME
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def name_the_hash(directory):
    """Make config.json name the tensors that are there, if it names any: a forger can do that, damage cannot."""

    def change(description):
        if "tensors" in description:
            description["tensors"]["sha256"] = hashlib.sha256((directory / TENSORS_NAME).read_bytes()).hexdigest()

    edit_config(directory, change)


def edit_tensors(directory, change, forged=True):
    """Apply `change` to the dictionary of tensors; `forged`: config.json names the new hash."""
    path = directory / TENSORS_NAME
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    path.write_bytes(save(tensors, metadata={"format": "pt"}))
    if forged:
        name_the_hash(directory)


def refused(directory, *words):
    """Loading fails with a CodebookError that has all words, the place and a remedy, and changes no file."""
    before = contents(directory)
    with pytest.raises(CodebookError) as raised:
        Codebook.from_pretrained(directory)
    message = str(raised.value)
    for word in (*words, str(directory)):
        assert word in message, message
    remedies = ("calibrate", "download", "upgrade", "a codebook is a directory", "remove")
    assert any(word in message.lower() for word in remedies), message
    assert contents(directory) == before


def contents(directory):
    """Name -> content of every file in a directory."""
    files = [path for path in directory.iterdir() if path.is_file()] if directory.is_dir() else []
    return {path.name: path.read_bytes() for path in files}
