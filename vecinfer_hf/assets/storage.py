# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Where converted models and fetched texts are kept, and how a file or directory appears there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from huggingface_hub import constants


def cache_directory() -> Path:
    """Return the directory for converted models and fetched texts.

    `$VECINFER_CACHE` if set, otherwise `vecinfer_hf` in the Hugging Face home (`$HF_HOME`, or `huggingface` in
    `$XDG_CACHE_HOME` or `~/.cache`).
    """
    chosen = os.environ.get("VECINFER_CACHE")
    return Path(chosen).expanduser() if chosen else Path(constants.HF_HOME) / "vecinfer_hf"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def make_once(target: Path, make: Callable[[Path], None]) -> Path:
    """Return `target`, made by `make(unfinished directory)` unless it exists.

    The directory gets its name only when it is complete; processes that want it at the same time wait for the first.

    Args:
        target: the directory wanted.
        make: fills the empty directory it is given; what it raises leaves nothing behind.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(target.name + ".lock")):
        if not target.exists():
            unfinished = target.with_name(target.name + ".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
            unfinished.mkdir()
            try:
                make(unfinished)
                unfinished.rename(target)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return target
