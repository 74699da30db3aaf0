# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Kernels compiled for this machine into the user's cache, once for each source, compiler version and architecture."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import KernelBuildError
from .compilers import Compiler, check_archs, device_archs, find_compiler
from .sources import kernel_sources, read_config, source_files, source_id, units
from .store import StoredKernels, put, store_root, stored_as, writing
from .variant import build_variant


class BuildPlan(NamedTuple):
    """What would be built; made before anything is written.

    Args:
        root: directory of the sources.
        backend: "cuda" or "cpu".
        compiler: of that backend.
        archs: GPU architectures; empty for "cpu".
        name: of the entry in the cache.
        steps: how often `build` calls its `done`.
    """

    root: Path
    backend: str
    compiler: Compiler
    archs: list[str]
    name: str
    steps: int


def default_backends() -> list[str]:
    """Return the backends that the sources have and this machine can run, CUDA first."""
    have = read_config(kernel_sources())["general"]["backends"]
    return [name for name in ("cuda", "cpu") if name in have and (name == "cpu" or torch.cuda.is_available())]


def plan_build(backend: str, archs: Sequence[str] = ()) -> BuildPlan:
    """Return what a build for this machine needs.

    Args:
        backend: "cuda" or "cpu".
        archs: GPU architectures such as "9.0a"; default those of the GPUs here.

    Raises:
        KernelBuildError: if there are no sources, no compiler, or no GPU where none was named.
    """
    root = kernel_sources()
    files = source_files(root, backend)
    if backend == "cpu" and archs:
        raise KernelBuildError("An architecture has an effect only with backend cuda; leave it out.")
    check_archs(list(archs))
    wanted: list[str] = []
    if backend == "cuda":
        kernels = read_config(root)["kernel"].values()
        listed = next(kernel["cuda-capabilities"] for kernel in kernels if kernel["backend"] == "cuda")
        wanted = sorted(set(archs)) or device_archs(listed)
    compiler = find_compiler(backend)
    cuda = [f"cu{compiler.cuda[0]}{compiler.cuda[1]}"] if compiler.cuda else []
    name = "-".join([backend, source_id(root, backend), *cuda, *(arch.replace("+", "") for arch in wanted)])
    return BuildPlan(root, backend, compiler, wanted, name, len(units(files)) + 1)


def build(
    plan: BuildPlan,
    *,
    jobs: int | None = None,
    force: bool = False,
    done: Callable[[str, str], None] = lambda unit, said: None,
    wait: Callable[[], None] = lambda: None,
) -> tuple[StoredKernels, bool]:
    """Return the build in the cache, and whether it was compiled now.

    Args:
        plan: what is built.
        jobs: compiler processes at a time; default one for each core.
        force: compile what is there already.
        done: takes each unit's name and what the compiler said.
        wait: called once if another process is building.

    Raises:
        KernelBuildError: if a compiler fails or the cache cannot be written; nothing is left but the log.
    """
    found = stored_as(plan.name)
    if found is not None and not force:
        return found, False
    with writing(wait) as work:
        found = stored_as(plan.name)
        if found is not None and not force:
            # Built by the process that was waited for.
            return found, False
        log = work / "build.log"
        try:
            build_variant(
                plan.root,
                work / "entry" / "build",
                backend=plan.backend,
                compiler=plan.compiler,
                archs=plan.archs,
                work=work / "objects",
                log=log,
                jobs=jobs or _cores(),
                done=done,
            )
            source = source_id(plan.root, plan.backend)
            entry = put(work / "entry", plan.name, backend=plan.backend, source=source, pulled=None)
        except KernelBuildError as error:
            raise KernelBuildError(f"{error}{_keep(log)}", error.tail) from None
    return entry, True


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep(log: Path) -> str:
    """Copy a log to its place and return the words that name it."""
    place = store_root() / "build.log"
    try:
        shutil.copyfile(log, place)
    except OSError:
        return ""
    return f" The whole log is {place}."
