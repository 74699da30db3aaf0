# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A published build of the kernels, taken by the commit it is pinned to and kept in the user's cache."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import KernelBuildError
from ..kernel_build.sources import digest
from ..kernel_build.store import StoredKernels, put, stored_as, writing
from .kernel_hub import fetch_commit
from .kernel_loader import VERSION, check_module


_PIN = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})")


def parse_pin(pin: str) -> tuple[str, str]:
    """Return (repository, commit) of "owner/name@commit".

    Raises:
        KernelBuildError: if it is not written so. Branches and tags are refused: kernels are code, and those move.
    """
    found = _PIN.fullmatch(pin)
    if found is None:
        raise KernelBuildError(
            f"{pin!r} is not OWNER/NAME@COMMIT with the 40 hex digits of a commit; branches and tags move, and "
            "kernels are code."
        )
    return found.group(1), found.group(2)


def pull(pin: str, wait: Callable[[], None] = lambda: None) -> tuple[StoredKernels, bool]:
    """Return the build that a pin names, and whether it was fetched now. The named repository is trusted.

    Args:
        pin: "owner/name@commit".
        wait: called once if another process writes to the cache.

    Raises:
        KernelBuildError: if it cannot be fetched, is damaged, or is not for this machine; nothing is kept then.
    """
    repository, commit = parse_pin(pin)
    name = f"pulled-{repository.replace('/', '--')}-{commit[:12]}"
    found = stored_as(name)
    if found is not None:
        return found, False
    try:
        module = fetch_commit(repository, VERSION, commit)
        check_module(module, "cpu" if torch.version.cuda is None else "cuda")
    except Exception as error:
        text = " ".join(str(error).split())
        raise KernelBuildError(f"{pin} has no kernels for this machine: {type(error).__name__}: {text}") from error
    variant = Path(module.__file__).parent
    metadata = json.loads((variant / "metadata.json").read_text(encoding="utf-8"))
    if metadata.get("digest") not in (None, digest(variant)):
        raise KernelBuildError(f"{variant} differs from the digest in its metadata; remove it and pull {pin} again.")
    with writing(wait) as work:
        shutil.copytree(variant, work / "entry" / "build" / variant.name, ignore=shutil.ignore_patterns("__pycache__"))
        entry = put(work / "entry", name, backend=metadata["backend"]["type"], source=None, pulled=pin)
    return entry, True
