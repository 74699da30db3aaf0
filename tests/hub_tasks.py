# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What other processes do in the Hub tests: functions that take and return JSON values."""

import hashlib
import os
from pathlib import Path

from hub_codebooks import tiny_codebook

from vecinfer_hf import Codebook, CodebookError, VecInferConfig, hub, hub_errors


def _quick():
    hub_errors.FIRST_WAIT = 0.02


def _reported(call):
    """The result of `call`, or the error a user would see."""
    _quick()
    try:
        return call()
    except (CodebookError, hub.CodebookHubError) as error:
        return {"error": str(error), "kind": type(error).__name__}


def fingerprint(codebook: Codebook) -> str:
    """A hash of all tensors of a codebook."""
    digest = hashlib.sha256()
    for index, layer in codebook.layers.items():
        for name, tensor in zip(layer._fields, layer, strict=True):
            if tensor is not None:
                digest.update(f"{index} {name} {tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def push(repo_id, seed=0, bits=2, **options):
    """Push a tiny codebook."""

    def call():
        codebook = tiny_codebook(seed, bits)
        commit = codebook.push_to_hub(repo_id, **options)
        return {"commit": commit.oid, "pr": commit.pr_revision, "fingerprint": fingerprint(codebook)}

    return _reported(call)


def pull(repo_id, cache_dir, uid=None, file_limit=None, **options):
    """Download a codebook and load it; optionally as another user, or with a limit on the size of files written."""
    if uid is not None:
        os.setuid(uid)
    if file_limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    def call():
        folder, commit = hub.download_codebook(repo_id, cache_dir=cache_dir, **options)
        codebook = Codebook.from_pretrained(folder)
        return {"commit": commit, "folder": str(folder), "fingerprint": fingerprint(codebook)}

    return _reported(call)


def push_config(repo_id, options, **more):
    """Push a VecInferConfig."""
    return _reported(lambda: {"commit": hub.push_config(VecInferConfig(**options), repo_id, **more).oid})


def pull_config(repo_id, cache_dir, **more):
    """Download a VecInferConfig."""
    return _reported(lambda: hub.download_config(repo_id, cache_dir=cache_dir, **more).to_diff_dict())


def files_in(cache_dir) -> list[str]:
    """What lies in a cache and could be taken for a codebook: finished files only."""
    return sorted(str(p) for p in Path(cache_dir).glob("models--*/snapshots/*/**/*") if p.is_file())
