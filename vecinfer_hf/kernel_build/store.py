# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The kernels kept in the user's cache: where they lie, listing, removal, and how a new one gets its place.

    <root>/<name>/build/<variant>/     a build as the `kernels` library loads it
    <root>/<name>/origin.json          where it came from
    <root>/build.log                   what the compilers said at the last build
    <root>/.lock                       held by the process that writes

An entry is written under a name that starts with a dot and renamed when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from huggingface_hub import constants

from ..errors import KernelBuildError


ROOT_VARIABLE = "VECINFER_KERNELS_CACHE"
"""Environment variable: the directory of kernels built or pulled here; default `vecinfer/kernels` in HF_HOME."""
_ORIGIN = "origin.json"
_UNFINISHED = ".unfinished-"


class StoredKernels(NamedTuple):
    """A build in the user's cache.

    Args:
        directory: of the entry; `build` in it holds the variant.
        backend: "cuda" or "cpu".
        source: hash of the sources it was built from here, or None if it was pulled.
        pulled: "owner/name@commit" it was pulled from, or None if it was built here.
        time: seconds since the epoch when it was written.
    """

    directory: Path
    backend: str
    source: str | None
    pulled: str | None
    time: float

    @property
    def name(self) -> str:
        """What `vecinfer kernels` calls it."""
        return self.directory.name

    @property
    def nbytes(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())


def store_root() -> Path:
    """Return the directory of the kernels built or pulled here; it may not exist."""
    given = os.environ.get(ROOT_VARIABLE)
    return Path(given).expanduser() if given else Path(constants.HF_HOME) / "vecinfer" / "kernels"


def stored_kernels() -> list[StoredKernels]:
    """Return what is kept, the newest first; an entry that cannot be read is left out."""
    found = []
    for path in store_root().glob(f"*/{_ORIGIN}"):
        if path.parent.name.startswith("."):
            continue
        try:
            origin = json.loads(path.read_text(encoding="utf-8"))
            found.append(StoredKernels(path.parent, **origin))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(found, key=lambda entry: entry.time, reverse=True)


def stored_as(name: str) -> StoredKernels | None:
    """Return the entry of a name, or None."""
    return next((entry for entry in stored_kernels() if entry.name == name), None)


@contextmanager
def writing(wait: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Let one process at a time write; the value is an empty directory, removed at the end, for what is not whole yet.

    Args:
        wait: called once if another process is writing.

    Raises:
        KernelBuildError: if the cache cannot be written.
    """
    root = store_root()
    lock = FileLock(root / ".lock")
    with _explained(root):
        root.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            wait()
            lock.acquire()
    try:
        with _explained(root):
            # What a process that was killed has left.
            for stale in root.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(stale, ignore_errors=True)
            work = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=root))
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)
    finally:
        lock.release()


def put(unfinished: Path, name: str, *, backend: str, source: str | None, pulled: str | None) -> StoredKernels:
    """Give a whole build its place, over whatever has that name; call it inside `writing`.

    Args:
        unfinished: directory with `build/<variant>` in it, inside the cache.
        name: of the entry.
        backend: see `StoredKernels`, as the others.
        source: hash of its sources.
        pulled: where it was pulled from.
    """
    origin = {"backend": backend, "source": source, "pulled": pulled, "time": time.time()}
    (unfinished / _ORIGIN).write_text(json.dumps(origin, indent=2) + "\n")
    place = store_root() / name
    _discard(place)
    unfinished.replace(place)
    return StoredKernels(place, **origin)


def remove(name: str) -> StoredKernels:
    """Remove an entry; processes that use it go on.

    Raises:
        KernelBuildError: if there is none of that name, or it cannot be removed.
    """
    entry = stored_as(name)
    if entry is None:
        known = ", ".join(entry.name for entry in stored_kernels()) or "none"
        raise KernelBuildError(f"{name!r} names no kernels in {store_root()}; name one of: {known}.")
    with writing():
        _discard(entry.directory)
    return entry


def _discard(place: Path) -> None:
    """Remove an entry so that no half of it is ever seen."""
    if place.exists():
        gone = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=place.parent)) / "gone"
        place.replace(gone)
        shutil.rmtree(gone.parent, ignore_errors=True)


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KernelBuildError(
            f"The cache of kernels {root} cannot be written ({error.strerror or error}); make room or name another "
            f"directory in {ROOT_VARIABLE}."
        ) from error
