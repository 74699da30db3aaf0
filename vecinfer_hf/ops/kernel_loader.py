# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The search for the compiled operators: where they are looked for, and why a place was passed over.

kernels.py calls them, kernel_hub.py downloads, ../kernel_build compiles and keeps. The `kernels` library is called
directly, never through transformers, whose wrapper accepts only some of its versions.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

from ..errors import KernelBuildError
from ..kernel_build.sources import kernel_sources, source_id
from ..kernel_build.store import StoredKernels, store_root, stored_kernels


__all__ = ["KernelCandidate", "forget_search", "kernel_candidates", "load_kernels"]

REPOSITORY = "vecinfer/vecinfer-attention"
VERSION = 2
"""Version of the operators' signatures: only kernels of this version are taken. Raised in build.toml as well."""
HOW_TO_GET_THEM = (
    "`vecinfer kernels build` compiles them on this machine, `vecinfer kernels pull OWNER/NAME@COMMIT` takes a "
    "published build"
)
OPERATORS = ("append", "decode_attention", "dequantize", "quantize")

_PACKAGE = Path(__file__).resolve().parents[1]


class KernelCandidate(NamedTuple):
    """A place where compiled kernels were looked for.

    Args:
        source: the place, in words.
        taken: whether its kernels are in use.
        reason: why it was passed over; empty if it was taken.
    """

    source: str
    taken: bool
    reason: str


class _Passed(Exception):
    """A place has no kernels for us; the message is the reason."""


class _Found(NamedTuple):
    module: ModuleType | None
    candidates: tuple[KernelCandidate, ...]


_found: _Found | None = None
"""For the devices that torch was built for."""
_found_for_cpu: _Found | None = None
"""For the CPU, where torch was built for CUDA."""
_lock = threading.Lock()


def load_kernels(device_type: str | None = None) -> ModuleType | None:
    """Return the module of the compiled operators, searched for once per process, or None.

    In this order: the path in VECINFER_KERNEL_PATH, LOCAL_KERNELS (the `kernels` library's own), the build beside the
    package, what `vecinfer kernels` built or pulled (the newest first), and, where there is a CUDA device, the kernel
    hub at the commit pinned by the package's `kernels.lock` or by the one that VECINFER_KERNELS_LOCK names.
    `kernel_candidates` says why not.

    Args:
        device_type: "cpu" or "cuda"; default what torch was built for.
    """
    # No lock once it is known: every operator calls this, and torch.compile traces it.
    if device_type == "cpu" and torch.version.cuda is not None:
        return _search(beside_cuda=True).module if _found_for_cpu is None else _found_for_cpu.module
    return _search().module if _found is None else _found.module


def kernel_candidates(device_type: str | None = None) -> list[KernelCandidate]:
    """Return every place that was tried, in order; at most the last one is taken. See `load_kernels`."""
    return list(_search(device_type == "cpu" and torch.version.cuda is not None).candidates)


def forget_search() -> None:
    """Search again at the next use: kernels were built, pulled or removed by this process."""
    global _found, _found_for_cpu
    with _lock:
        _found = _found_for_cpu = None


def _search(beside_cuda: bool = False) -> _Found:
    """Search once; `beside_cuda` for the CPU's kernels where torch was built for CUDA."""
    global _found, _found_for_cpu
    with _lock:
        known = _found_for_cpu if beside_cuda else _found
        if known is None:
            backend = "cpu" if beside_cuda or torch.version.cuda is None else "cuda"
            tried = []
            module = None
            for source, load in _places(backend):
                try:
                    module = load()
                    check_module(module, backend)
                    reason = ""
                except Exception as error:  # a broken build must never take the model down
                    module, reason = None, _one_line(error)
                tried.append(KernelCandidate(source, module is not None, reason))
                if module is not None:
                    break
            known = _Found(module, tuple(tried))
            if beside_cuda:
                _found_for_cpu = known
            else:
                _found = known
        return known


def _places(backend: str) -> Iterator[tuple[str, Callable[[], ModuleType]]]:
    yield "VECINFER_KERNEL_PATH", lambda: _from_variable(backend)
    yield "LOCAL_KERNELS", lambda: _from_local_kernels(backend)
    yield "build beside the package", lambda: _from_beside(backend)
    yield f"vecinfer kernels ({store_root()})", lambda: _from_store(backend)
    # Kernels for the CPU are built where they run.
    if backend == "cuda" or torch.version.cuda is None:
        yield f"kernel hub ({REPOSITORY}, version {VERSION})", _from_hub


def _from_variable(backend: str) -> ModuleType:
    path = os.environ.get("VECINFER_KERNEL_PATH")
    if not path:
        raise _Passed("not set")
    return _from_path(Path(path), backend)


def _from_local_kernels(backend: str) -> ModuleType:
    entries = dict(entry.split("=", 1) for entry in os.environ.get("LOCAL_KERNELS", "").split(":") if "=" in entry)
    if REPOSITORY not in entries:
        raise _Passed(f"does not name {REPOSITORY}")
    return _from_path(Path(entries[REPOSITORY]), backend)


def _from_beside(backend: str) -> ModuleType:
    places = (_PACKAGE / "_kernels", _PACKAGE.parent / "hub_kernels" / REPOSITORY.split("/")[1])
    reasons = []
    for place in places:
        if not (place / "build").is_dir():
            continue
        try:
            return _from_path(place, backend)
        except Exception as error:
            reasons.append(f"{place}: {_one_line(error)}")
    raise _Passed("; ".join(reasons) or "none (in a checkout, `make kernels` makes one)")


def _from_store(backend: str) -> ModuleType:
    reasons = []
    for entry in stored_kernels():
        if entry.backend != backend:
            continue
        try:
            return load_stored(entry)
        except Exception as error:
            reasons.append(f"{entry.name}: {_one_line(error)}")
    raise _Passed("; ".join(reasons) or f"none for {backend}; {HOW_TO_GET_THEM}")


def load_stored(entry: StoredKernels) -> ModuleType:
    """Return the module of kernels in the user's cache.

    Raises:
        Exception: if they are of another version, source, torch, CUDA or GPU; the message says which.
    """
    if entry.source is not None:
        try:
            current = source_id(kernel_sources(), entry.backend)
        except KernelBuildError as error:
            raise _Passed(str(error)) from None
        if entry.source != current:
            raise _Passed(
                f"it was built from other sources ({entry.source}, here are {current}); run `vecinfer kernels build`"
            )
    module = _from_path(entry.directory, entry.backend)
    check_module(module, entry.backend)
    return module


def _from_hub() -> ModuleType:
    if not torch.cuda.is_available():
        raise _Passed("there is no CUDA device, so the Hub is not asked")
    # Kernels are code: only a commit that this release, or the user, has written down is ever fetched.
    lockfile = Path(os.environ.get("VECINFER_KERNELS_LOCK") or _PACKAGE / "kernels.lock")
    if not lockfile.is_file():
        raise _Passed(f"no commit is pinned for this release ({lockfile} does not exist)")
    from .kernel_hub import fetch_kernel

    return fetch_kernel(REPOSITORY, VERSION, lockfile=lockfile)


def _from_path(path: Path, backend: str) -> ModuleType:
    # Not get_kernel: where it finds nothing locally, it goes on to the network.
    from kernels import get_local_kernel

    if not path.exists():
        raise _Passed(f"{path} does not exist")
    return get_local_kernel(path.resolve(), backend=backend)


def check_module(module: ModuleType, backend: str) -> None:
    """Pass over a module that is not this version's or not for this device."""
    missing = [name for name in OPERATORS if not hasattr(module, name)]
    if missing:
        raise _Passed(f"{module.__file__} lacks {', '.join(missing)}")
    metadata = json.loads((Path(module.__file__).parent / "metadata.json").read_text(encoding="utf-8"))
    if metadata.get("version") != VERSION:
        raise _Passed(f"it is version {metadata.get('version')}, and version {VERSION} is needed")
    built_for = metadata.get("backend", {}).get("type", backend)
    if built_for != backend:
        raise _Passed(f"it is built for {built_for}, and a build for {backend} is needed")
    archs = metadata.get("backend", {}).get("archs")
    if archs and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        if not any(_runs_on(arch, capability) for arch in archs):
            have = ".".join(map(str, capability))
            raise _Passed(f"it is built for {', '.join(archs)}, and this device has compute capability {have}")


def _runs_on(arch: str, capability: tuple[int, int]) -> bool:
    """Whether code for an architecture such as "8.0", "9.0a" or "8.0+PTX" runs on a device."""
    major, minor = (int(part) for part in arch.removesuffix("+PTX").rstrip("af").split("."))
    if arch.endswith("a"):
        return capability == (major, minor)
    if arch.endswith("+PTX"):
        return capability >= (major, minor)
    return capability[0] == major and capability[1] >= minor


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if isinstance(error, _Passed) else f"{type(error).__name__}: {text}"
    return text if len(text) <= 300 else f"{text[:297]}..."
