# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A codebook into a directory, so that the old or the new one loads whenever the process or the machine stops.

Two files cannot be replaced at once, so config.json, which names the hash of its tensors, decides:

    1. the new tensors are written beside the old ones, as codebook-<sha256>.safetensors
    2. config.json is replaced: from here on the new codebook loads, from that name
    3. the new tensors are renamed to codebook.safetensors, over the old ones

Before 2 nothing of the old codebook is touched. Between 2 and 3 files.py finds the tensors by their hash. Other files
in the directory stay as they are. The card comes last: it is no part of what loads.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..config import read_json, replace_file
from ..errors import CodebookError
from .files import CONFIG_NAME, TENSORS_NAME, file_digest, interim_name


README_NAME = "README.md"
GENERATED = "<!-- Written by vecinfer_hf; a push replaces this file. Remove this line to keep your own text. -->"
"""A README.md without this line belongs to its author: neither a save nor a push touches it."""
_INTERIM = re.compile(r"codebook-[0-9a-f]{64}\.safetensors|\.codebook-[0-9a-f]{64}\.safetensors\.saving")


def save_files(directory: Path, config: bytes, tensors: bytes, card: bytes) -> None:
    """Write the files of a codebook into `directory`, which is made if it does not exist.

    Args:
        directory: where to.
        config: content of config.json, which names the SHA-256 of `tensors`.
        tensors: content of codebook.safetensors.
        card: content of README.md; not written over a README.md of somebody else.

    Raises:
        CodebookError: if `directory` is a file, or has a config.json that is no codebook's.
    """
    _check_directory(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with _alone(directory) as sync:
        _save_pair(directory, config, tensors, sync)
        readme = directory / README_NAME
        if not readme.exists() or GENERATED.encode() in readme.read_bytes():
            replace_file(readme, card)
        sync()


def _save_pair(directory: Path, config: bytes, tensors: bytes, sync) -> None:
    sha256 = hashlib.sha256(tensors).hexdigest()
    final, interim = directory / TENSORS_NAME, directory / interim_name(sha256)
    in_place = final.is_file() and file_digest(final, hashlib.sha256()) == sha256
    if not in_place:
        replace_file(interim, tensors)
        sync()
    replace_file(directory / CONFIG_NAME, config)
    sync()
    if not in_place:
        os.replace(interim, final)
        sync()
    for stale in directory.iterdir():
        if _INTERIM.fullmatch(stale.name):
            stale.unlink()


def _check_directory(directory: Path) -> None:
    """Raise CodebookError for a place where a codebook would destroy something else."""
    remedy = "give another directory."
    if directory.exists() and not directory.is_dir():
        raise CodebookError(f"Cannot save a codebook to {directory}: it is a file; give a directory.")
    config, tensors = directory / CONFIG_NAME, directory / TENSORS_NAME
    for path in (config, tensors, directory / README_NAME):
        if path.exists() and not path.is_file():
            raise CodebookError(f"Cannot save a codebook to {directory}: {path} is not a file; {remedy}")
    if not config.exists():
        return
    try:
        found = read_json(config)
        known = isinstance(found, dict) and "format_version" in found
    except (OSError, ValueError):
        known = tensors.exists()
    if not known:
        raise CodebookError(
            f"Cannot save a codebook to {directory}: its {CONFIG_NAME} is no codebook's and would be lost; {remedy}"
        )


@contextmanager
def _alone(directory: Path) -> Iterator:
    """Keep other processes from saving into a directory meanwhile; yields a function that makes renames durable.

    Where directories cannot be opened (Windows) there is neither.
    """
    try:
        import fcntl

        handle = os.open(directory, os.O_RDONLY)
    except (ImportError, OSError):
        yield lambda: None
        return

    def sync() -> None:
        with suppress(OSError):  # not every file system can
            os.fsync(handle)

    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield sync
    finally:
        os.close(handle)
