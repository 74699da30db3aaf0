# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Where models and texts are kept, and how a file or directory appears there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def models_directory() -> Path:
    """Return the directory for models and texts: `$VECINFER_MODELS` if set, otherwise `models` in the checkout."""
    chosen = os.environ.get("VECINFER_MODELS")
    return Path(chosen).expanduser() if chosen else Path(__file__).resolve().parents[2] / "models"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def make_once(target: Path, make: Callable[[Path], None]) -> Path:
    """Return `target`, made by `make(unfinished)` unless it exists.

    The file or directory gets its name only when it is complete; processes that want it at the same time wait for the
    first.

    Args:
        target: the file or directory wanted.
        make: makes it at the path it is given, where nothing exists yet; if it raises, nothing is left behind.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not target.exists():
            unfinished = target.with_name(f".{target.name}.unfinished")
            _remove(unfinished)  # of a process that was killed
            try:
                make(unfinished)
                unfinished.rename(target)
            finally:
                _remove(unfinished)
    return target


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
