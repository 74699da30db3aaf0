# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""From the name of a codebook to a directory on this machine: here, with the package, or downloaded from the Hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import CodebookError, CodebookHubError
from .files import CONFIG_NAME, TENSORS_NAME
from .shipped import shipped_codebooks, shipped_names


SAVED_FOLDER = "vecinfer"
"""The folder beside a model's weights that holds the codebook saved with it."""


def saved_with_model(name: str) -> Path | None:
    """Return the directory of the codebook that lies beside the weights of a model in a directory, or None."""
    try:
        directory = Path(name).expanduser() / SAVED_FOLDER if name else None
        return directory if directory is not None and (directory / CONFIG_NAME).is_file() else None
    except (OSError, RuntimeError, ValueError):  # no file can have that name
        return None


def locate(
    name: str | Path, *, revision: str | None = None, subfolder: str | None = None, **download: Any
) -> tuple[Path, str | None]:
    """Return the directory of a codebook, and the commit it came from (None if it was on this machine).

    Args:
        name: directory, shipped name or Hub repository id, looked up in that order.
        revision: branch, tag or commit of a repository.
        subfolder: directory inside it.
        download: the other arguments of `vecinfer_hf.hub.download_codebook`.

    Raises:
        CodebookError: if the name can mean none of these.
        CodebookHubError: if it cannot be downloaded.
    """
    from ..hub.download import check_local, download_codebook

    directory = local_directory(name, subfolder)
    if directory is not None:
        check_local(name, revision)
        return directory, None
    try:
        return download_codebook(str(name), revision=revision, subfolder=subfolder, **download)
    except CodebookHubError as error:
        raise CodebookHubError(f"{error} ({_elsewhere(name)})") from error


def local_directory(name: str | Path, subfolder: str | None = None) -> Path | None:
    """Return the directory that a name means on this machine, or None if it can only be a Hub repository.

    Raises:
        CodebookError: if it can be neither.
    """
    if not isinstance(name, (str, os.PathLike)) or not str(name):
        raise CodebookError(f"A codebook is named by a directory or a Hub repository, not by {name!r}; give its name.")
    try:
        directory = Path(name).expanduser()
        if directory.is_dir():
            return directory / (subfolder or "")
        is_file = directory.is_file()
    except (OSError, RuntimeError, ValueError):  # no file can have that name, or it begins with an unknown user's home
        directory, is_file = Path(name), False
    if is_file:
        raise CodebookError(f"{name} is a file; a codebook is a directory with {CONFIG_NAME} and {TENSORS_NAME}.")
    shipped = (Path(name) / (subfolder or "")).as_posix()
    if shipped in shipped_names():
        return shipped_codebooks() / shipped
    if len(directory.parts) > 2 or directory.is_absolute() or str(name).startswith("."):
        raise CodebookError(f"{_elsewhere(name)} It cannot be a Hub repository either: those are called owner/name.")
    return None


def _elsewhere(name: str | Path) -> str:
    return f"There is no directory {name} here, and the package's own codebooks are {', '.join(shipped_names())}."
