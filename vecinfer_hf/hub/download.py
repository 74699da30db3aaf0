# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Codebooks from the Hugging Face Hub: one verified directory in the cache.

Owns what is let in: which files, how large, with which content. codebook/files.py judges the tensors, errors.py
words the failures, push.py is the other direction.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers.utils import logging

from ..codebook.files import CONFIG_NAME, MAX_CONFIG_BYTES, MAX_TENSORS_BYTES, TENSORS_NAME, file_digest
from ..codebook.saving import README_NAME
from ..errors import CodebookHubError, ConfigError, unreachable
from ..version import __version__
from .errors import explained, with_retries


logger = logging.get_logger(__name__)

LARGEST = {CONFIG_NAME: MAX_CONFIG_BYTES, TENSORS_NAME: MAX_TENSORS_BYTES}
"""Bytes that a file may have; a file of options may have 1 MiB."""
_LARGEST_OPTIONS = 1 << 20

_COMMIT = re.compile(r"[0-9a-f]{40}")
_FOLDER = re.compile(r"[\w.-]+(/[\w.-]+)*")


def download_codebook(
    repo_id: str,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> tuple[Path, str]:
    """Download a codebook into the Hub cache and check that it arrived as it was announced.

    A commit that is in the cache needs no network. Where the Hub cannot be reached, the cached codebook of the same
    branch or tag is used, with a warning; where it answers that access is denied, it is not.

    Args:
        repo_id: "owner/name".
        revision: branch, tag, "refs/pr/1" or commit; None for "main".
        subfolder: directory of the codebook in the repository.
        token: Hub token; None for the one of `hf auth login`, False for none.
        cache_dir: the Hub cache; None for the usual one.
        local_files_only: use the cache only.
        force_download: download again what is cached.

    Returns:
        The local directory with `config.json` and `codebook.safetensors`, and the commit id it came from.

    Raises:
        CodebookHubError: if there is no such codebook, access is denied, it does not arrive intact, or the cache
            cannot be written.
    """
    return _download((CONFIG_NAME, TENSORS_NAME), repo_id, revision, subfolder, token, cache_dir, local_files_only,
                     force_download)  # fmt: skip


def download_options(
    repo_id: str,
    file_name: str,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Return the local path of the options that `push_options` uploaded, as `file_name` of a config.

    The other arguments and the errors are those of `download_codebook`.
    """
    folder, _ = _download((file_name,), repo_id, revision, subfolder, token, cache_dir, local_files_only,
                          force_download)  # fmt: skip
    return folder / file_name


def check_local(name: str | Path, revision: str | None, download: Mapping[str, Any] | None = None) -> None:
    """Raise for arguments that make no sense where a name means a directory on this machine.

    Args:
        name: what the user gave.
        revision: must be None, because a directory has none.
        download: arguments of `download_codebook`, which are not needed here; TypeError for any other.

    Raises:
        ConfigError: if there is a revision.
    """
    unknown = sorted(set(download or ()) - {"token", "cache_dir", "local_files_only", "force_download"})
    if unknown:
        raise TypeError(f"from_pretrained() got an unexpected keyword argument {unknown[0]!r}")
    if revision is not None:
        raise ConfigError(
            f"revision={revision!r} is one of a Hub repository, but {name} is on this machine; leave it out."
        )


def hub_api(token: str | bool | None) -> HfApi:
    """Return the client that every call of this package goes through."""
    return HfApi(token=token, library_name="vecinfer", library_version=__version__)


def check_names(repo_id: str, subfolder: str | None, revision: str | None = None) -> None:
    """Raise CodebookHubError unless these name a repository, a directory inside it, and a revision of it."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise CodebookHubError(
            f"{repo_id!r} is neither a directory nor a Hub repository ({error}); use 'owner/name' or an existing path."
        ) from error
    if subfolder is not None and (not _FOLDER.fullmatch(subfolder) or ".." in PurePosixPath(subfolder).parts):
        raise CodebookHubError(
            f"subfolder {subfolder!r} is not a directory inside a repository; use names of letters, digits, '.', '_' "
            "and '-' separated by '/', without '..'."
        )
    if revision is not None and (not isinstance(revision, str) or not revision):
        raise CodebookHubError(f"revision is {revision!r}; give a branch, tag or commit, or leave it out.")


def _download(names, repo_id, revision, subfolder, token, cache_dir, local_files_only, force_download):
    check_names(repo_id, subfolder, revision)
    what = f"Cannot get {repo_id}" + (f"/{subfolder}" if subfolder else "") + (f" at {revision}" if revision else "")
    paths = [f"{subfolder}/{name}" if subfolder else name for name in (*names, README_NAME)]
    api = hub_api(token)
    fetch = partial(api.snapshot_download, repo_id, cache_dir=cache_dir, allow_patterns=paths)

    def cached() -> tuple[Path, str] | None:
        try:
            snapshot = Path(fetch(revision=revision, local_files_only=True))
        except (FileNotFoundError, ValueError, OSError):
            return None
        folder = snapshot / (subfolder or "")
        for path in (folder / name for name in names):
            if not path.is_file():
                return None
            if not _as_named(path.resolve()):
                logger.warning(f"{path} is damaged: its content is not what its name in the cache says.")
                return None
        return folder, snapshot.name

    if local_files_only or (revision and _COMMIT.fullmatch(revision) and not force_download):
        found = cached()
        if found is not None:
            return found
        if local_files_only:
            raise CodebookHubError(
                f"{what}: it is not, or not whole, in the local cache; download it once with local_files_only=False."
            )
    try:
        return _fetch_verified(api, fetch, repo_id, revision, subfolder, names, paths, force_download)
    except CodebookHubError:
        raise
    except Exception as error:
        found = cached() if unreachable(error) and not force_download else None
        if found is None:
            raise explained(error, what, revision, cache_dir) from error
        logger.warning(f"The Hub cannot be reached; using {repo_id} at the cached commit {found[1]}.")
        return found


def _fetch_verified(api, fetch, repo_id, revision, subfolder, names, paths, force) -> tuple[Path, str]:
    for attempt in range(3):
        listing = with_retries(lambda: api.model_info(repo_id, revision=revision, files_metadata=True))
        _check_listing(listing.siblings or [], repo_id, subfolder, names)
        snapshot = Path(with_retries(partial(fetch, revision=revision, force_download=force or attempt > 0)))
        announced = {sibling.rfilename: sibling for sibling in listing.siblings if sibling.rfilename in paths}
        moved = snapshot.name != listing.sha
        damaged = [] if moved else [path for path, entry in announced.items() if not _intact(snapshot / path, entry)]
        if not moved and not damaged:
            return snapshot / (subfolder or ""), snapshot.name
        logger.warning(
            f"{repo_id} {'changed meanwhile' if moved else f'arrived damaged ({damaged})'}; downloading again."
        )
    problem = f"the content of {damaged} is not what the Hub announced" if damaged else "it changes"
    raise CodebookHubError(f"Cannot get {repo_id}: {problem} at every try. Try later, or over another network.")


def _check_listing(siblings: list[Any], repo_id: str, subfolder: str | None, names: tuple[str, ...]) -> None:
    """Refuse a repository that lists files outside itself, lacks the codebook, or announces absurd sizes."""
    files = {sibling.rfilename: sibling for sibling in siblings}
    for path in files:
        parts = path.replace("\\", "/").split("/")
        if ".." in parts or "" in parts or ":" in parts[0]:
            raise CodebookHubError(f"{repo_id} lists the file {path!r}, which is outside it; it is not to be trusted.")
    what = "codebook" if TENSORS_NAME in names else "config"
    for name in names:
        path = f"{subfolder}/{name}" if subfolder else name
        if path not in files:
            where = sorted({str(PurePosixPath(p).parent) for p in files if PurePosixPath(p).name == names[-1]})
            where = [place for place in where if place != "."]
            hint = f"it has one in the subfolders {where}: pass subfolder=" if where else "choose another repository"
            raise CodebookHubError(f"{repo_id} has no file {path}, so there is no {what}; {hint}.")
        most = LARGEST.get(name, _LARGEST_OPTIONS)
        if (files[path].size or 0) > most:
            raise CodebookHubError(
                f"{repo_id} announces {files[path].size} bytes for {path}, more than the {most} that it can need; it "
                "is not downloaded."
            )


def _intact(path: Path, announced: Any) -> bool:
    """Whether a file has the size and the hash that the Hub announced."""
    if not path.is_file() or path.stat().st_size != announced.size:
        return False
    return _digest(path, large=bool(announced.lfs)) == (announced.lfs.sha256 if announced.lfs else announced.blob_id)


def _as_named(blob: Path) -> bool:
    """Whether a file of the cache has the hash it is named by; True where the cache does not name files so."""
    if not re.fullmatch("[0-9a-f]{40}([0-9a-f]{24})?", blob.name):
        return True
    return _digest(blob, large=len(blob.name) == 64) == blob.name


def _digest(path: Path, *, large: bool) -> str:
    """The Hub's name for a content: SHA-256 of large files, git's id of the others."""
    return file_digest(path, hashlib.sha256() if large else hashlib.sha1(b"blob %d\0" % path.stat().st_size))
