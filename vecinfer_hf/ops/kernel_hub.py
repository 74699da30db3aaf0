# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels from the Hugging Face kernel hub: a pinned version of one trusted repository, also offline.

Owns the download and what has to be done around the `kernels` library so that it works without a network afterwards.
kernel_loader.py decides when the hub is asked at all.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from types import ModuleType

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import OfflineModeIsEnabled

from ..errors import unreachable


def fetch_kernel(repo_id: str, version: int, *, lockfile: str | Path | None = None) -> ModuleType:
    """Return the kernel module of `repo_id` for this machine, downloaded once.

    The repository named here, and no other, is trusted: kernels are code. With a `kernels.lock` the commit written
    there is used, else the branch `v<version>`. Without a network, or in offline mode, what was downloaded before is.

    Args:
        repo_id: kernel repository, "owner/name".
        version: major version of the kernel.
        lockfile: path of a `kernels.lock` that lists the repository, or None.

    Raises:
        ValueError: if the lock file does not list this repository at this version.
        FileNotFoundError: if there is no build for this machine, or none in the cache and no network.
        Exception: whatever the `kernels` library raises for a repository that cannot be read.
    """
    return fetch_commit(
        repo_id, version, None if lockfile is None else locked_commit(repo_id, version, Path(lockfile))
    )


def fetch_commit(repo_id: str, version: int, commit: str | None) -> ModuleType:
    """Return the kernel module of one commit, or of the branch `v<version>` if it is None; see `fetch_kernel`."""
    import kernels

    if constants.HF_HUB_OFFLINE:
        return _from_cache(repo_id, version, commit)
    try:
        if constants.HF_HUB_DISABLE_TELEMETRY:
            # kernels 0.17 then sends a header that HTTP forbids (an empty user agent), so the files are fetched here.
            _download(repo_id, version, commit)
            return _from_cache(repo_id, version, commit)
        pin = {"version": version} if commit is None else {"revision": commit}
        module = kernels.get_kernel(repo_id, trust_remote_code=[repo_id], **pin)
    except Exception as error:
        if unreachable(error) and not isinstance(error, OfflineModeIsEnabled):
            try:
                return _from_cache(repo_id, version, commit)
            except FileNotFoundError:
                pass
        raise
    if commit is None:
        _remember(repo_id, version, module)
    return module


def locked_commit(repo_id: str, version: int, lockfile: Path) -> str:
    """Return the commit that a `kernels.lock` names for a repository at a version.

    Raises:
        ValueError: if it names none, or is not a lock file.
    """
    try:
        for entry in json.loads(lockfile.read_text(encoding="utf-8")):
            dependency = entry["dependency"]
            if dependency["repo-id"] == repo_id and dependency.get("version") == version:
                return entry["lock"]["commit"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{lockfile} is not a kernels.lock file ({error!r}); write it with `kernels lock`."
        ) from error
    raise ValueError(f"{lockfile} does not lock {repo_id} at version {version}; run `kernels lock` again.")


def _storage(repo_id: str) -> Path:
    cache = os.environ.get("KERNELS_CACHE") or constants.HF_HUB_CACHE
    return Path(cache) / f"kernels--{repo_id.replace('/', '--')}"


def _from_cache(repo_id: str, version: int, commit: str | None) -> ModuleType:
    # Not through kernels.get_kernel: from the cache it wants every build of the repository, and only ours was fetched.
    import kernels

    storage = _storage(repo_id)
    reference = storage / "refs" / f"v{version}"
    if commit is None and reference.is_file():
        commit = reference.read_text().strip()
    snapshot = storage / "snapshots" / (commit or "none")
    if commit is None or not snapshot.is_dir():
        wanted = f"commit {commit}" if commit else f"version {version}"
        raise FileNotFoundError(
            f"The kernels of {repo_id} ({wanted}) are not in {storage} and the Hub cannot be asked; load them once "
            "while online."
        )
    return kernels.get_local_kernel(snapshot)


def _download(repo_id: str, version: int, commit: str | None) -> None:
    HfApi(library_name="vecinfer").snapshot_download(
        repo_id,
        repo_type="kernel",
        revision=commit or f"v{version}",
        allow_patterns=["build/*"],
        ignore_patterns=["*.pyc"],
        cache_dir=os.environ.get("KERNELS_CACHE"),
    )


def _remember(repo_id: str, version: int, module: ModuleType) -> None:
    """Write which commit the version is: `kernels` downloads by commit and leaves nothing to find it by offline."""
    snapshots = _storage(repo_id) / "snapshots"
    file = Path(module.__file__ or "")
    commit = next((parent.name for parent in file.parents if parent.parent == snapshots), None)
    if commit is None:
        return  # a local kernel stood in for it
    references = _storage(repo_id) / "refs"
    try:
        references.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=references, delete=False) as temporary:
            temporary.write(commit)
        os.replace(temporary.name, references / f"v{version}")
    except OSError:
        pass  # a read-only cache serves online use all the same
