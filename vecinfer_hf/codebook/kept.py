# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The codebooks that were made on this machine: a directory of the user, sorted by the fingerprint of the weights.

    <root>/format-2/<fingerprint>/<bits>/    config.json, codebook.safetensors, README.md
    <root>/format-2/<fingerprint>/<bits>.lock

Owns where they lie, listing, removal and the lock between processes. integration/make.py decides when one is made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import constants

from ..errors import CodebookError
from .codebook import Codebook
from .description import FORMAT_VERSION
from .files import CONFIG_NAME


ROOT_VARIABLE = "VECINFER_CODEBOOKS"
"""Environment variable: the directory of the codebooks made on this machine; default `vecinfer` in HF_HOME."""
_SHORT = 12
"""Digits of a fingerprint that name a codebook in lists."""


@dataclass(frozen=True)
class KeptCodebook:
    """A codebook that was made here.

    Args:
        directory: where it lies.
        fingerprint: of the weights it was made for.
        bits: the name of its bits, "2" for a mean of 2 bits.
    """

    directory: Path
    fingerprint: str
    bits: str

    @property
    def name(self) -> str:
        """What `vecinfer codebooks` calls it: the first digits of the fingerprint and the bits."""
        return f"{self.fingerprint[:_SHORT]}/{self.bits}"

    @property
    def nbytes(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self.directory.iterdir() if path.is_file())


def kept_root() -> Path:
    """Return the directory of the codebooks made on this machine; it may not exist."""
    given = os.environ.get(ROOT_VARIABLE)
    root = Path(given).expanduser() if given else Path(constants.HF_HOME) / "vecinfer"
    # Another format version has a directory of its own: neither version reads or removes what the other keeps.
    return root / f"format-{FORMAT_VERSION}"


def kept_codebook(fingerprint: str, bits: str) -> KeptCodebook:
    """Return where the codebook for these weights and bits lies, whether it was made or not."""
    return KeptCodebook(kept_root() / fingerprint / bits, fingerprint, bits)


def kept_codebooks() -> list[KeptCodebook]:
    """Return what is kept, sorted by path."""
    found = sorted(kept_root().glob(f"*/*/{CONFIG_NAME}"))
    return [KeptCodebook(path.parent, path.parents[1].name, path.parent.name) for path in found]


def find_kept(name: str) -> KeptCodebook:
    """Return the kept codebook that a name means: `fingerprint/bits`, or a fingerprint's first digits alone.

    Raises:
        CodebookError: if there is none, or several.
    """
    digits, _, bits = name.partition("/")
    found = [
        kept for kept in kept_codebooks() if digits and kept.fingerprint.startswith(digits) and bits in ("", kept.bits)
    ]
    if len(found) != 1:
        known = ", ".join(kept.name for kept in kept_codebooks()) or "none"
        what = "no kept codebook" if not found else f"{len(found)} kept codebooks"
        raise CodebookError(f"{name!r} names {what} in {kept_root()}; name one of: {known}.")
    return found[0]


def load_kept(kept: KeptCodebook) -> Codebook | None:
    """Return a kept codebook, or None if it was not made.

    Raises:
        CodebookError: if it is damaged, or was made for other weights than its directory says.
    """
    if not (kept.directory / CONFIG_NAME).is_file():
        return None
    codebook = Codebook.from_pretrained(kept.directory)
    if codebook.weights_fingerprint != kept.fingerprint:
        raise CodebookError(
            f"{kept.directory} holds a codebook for other weights (fingerprint {codebook.weights_fingerprint}); "
            f"remove it with `vecinfer codebooks remove {kept.name}`."
        )
    return codebook


def keep(kept: KeptCodebook, codebook: Codebook) -> None:
    """Write a codebook to its place, over whatever lies there.

    Raises:
        OSError: if the place cannot be written.
        CodebookError: likewise.
    """
    config = kept.directory / CONFIG_NAME
    try:
        codebook.save_pretrained(kept.directory)
    except CodebookError:
        if not config.exists():
            raise
        # What lies there is no codebook any more.
        shutil.rmtree(kept.directory)
        codebook.save_pretrained(kept.directory)


def remove_kept(kept: KeptCodebook) -> None:
    """Remove a kept codebook; processes that use it keep it in memory."""
    with locked(kept):
        # The lock file stays: another process may be waiting for it.
        shutil.rmtree(kept.directory)


@contextmanager
def locked(kept: KeptCodebook, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Let one process at a time into the block for these weights and bits; a process that ends gives the lock back.

    Args:
        kept: the place.
        wait: called once if another process is in its block.

    Raises:
        OSError: if the lock cannot be made there.
    """
    kept.directory.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_path(kept))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if wait is not None:
            wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock_path(kept: KeptCodebook) -> Path:
    return kept.directory.with_name(f"{kept.bits}.lock")
