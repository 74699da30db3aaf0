# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Codebooks to the Hugging Face Hub: files and card in one commit.

Owns what is written into a repository. card.py words the card, errors.py the failures, download.py is
the other direction.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from transformers.utils import logging

from ..codebook.saving import GENERATED, README_NAME
from ..config import StoredOptions
from ..errors import CodebookHubError, transport_errors
from .card import ERROR_PLOT, codebook_card, draw_errors, repository_card
from .download import check_names, hub_api
from .errors import explained, with_retries
from .metadata import base_model_id, describe, licence_of, listed_entries


if TYPE_CHECKING:
    from ..codebook.codebook import Codebook

logger = logging.get_logger(__name__)
Files = Callable[[HfApi, str, str], dict[str, bytes]]
"""(client, repository, its newest commit) -> path in the repository -> content."""


def push_codebook(
    codebook: Codebook,
    repo_id: str,
    *,
    private: bool | None = None,
    create_pr: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | bool | None = None,
    subfolder: str | None = None,
    base_model: str | None = None,
) -> CommitInfo:
    """Upload a codebook and its card to a Hub repository, in one commit.

    Args:
        codebook: the codebook.
        repo_id: "owner/name", or "name" for one's own; created if it does not exist.
        private: whether only its owner sees a new repository; None for the owner's default.
        create_pr: offer the commit as a pull request instead of making it.
        revision: branch to commit to, created if it does not exist; None for "main".
        commit_message: first line of the commit.
        token: Hub token; None for the one of `hf auth login`.
        subfolder: directory for it, so that a repository can hold several; its README.md then lists all of them.
        base_model: Hub id of the model it is for, by which others find it; None for the one it was calibrated on. Give
            it if that was loaded from a directory.

    Returns:
        The commit: `oid`, `commit_url` and, for a pull request, `pr_url` and `pr_revision`.

    Raises:
        CodebookHubError: if the Hub refuses it or cannot be reached; nothing was committed then.
    """
    check_names(repo_id, subfolder, revision)
    codebook = _for_others(codebook, base_model)
    message = commit_message or f"Upload a {codebook.bits_per_element:g}-bit VecInfer codebook"
    with tempfile.TemporaryDirectory(prefix="vecinfer-push-") as temporary:
        folder = Path(temporary)
        codebook.save_pretrained(folder)

        def files(api: HfApi, full_id: str, head: str) -> dict[str, bytes]:
            plot = draw_errors(codebook, folder / ERROR_PLOT)
            licence = licence_of(codebook) or _licence_of_base(api, base_model_id(codebook.identity.name))
            card = codebook_card(codebook, repo_id=full_id, subfolder=subfolder, licence=licence, with_plot=plot)
            found = {path.name: path.read_bytes() for path in folder.iterdir()} | {README_NAME: card.encode()}
            prefix = f"{subfolder}/" if subfolder else ""
            found = {prefix + name: data for name, data in found.items()}
            return found | _root_readme(api, full_id, head, codebook, subfolder, licence, found.get(README_NAME))

        return _push(files, repo_id, private, create_pr, revision, message, token)


def push_options(
    options: StoredOptions,
    repo_id: str,
    *,
    private: bool | None = None,
    create_pr: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | bool | None = None,
    subfolder: str | None = None,
) -> CommitInfo:
    """Upload the options of a VecInferConfig or CalibrationConfig under their file name, in one commit.

    The other arguments, the result and the errors are those of `push_codebook`.
    """
    check_names(repo_id, subfolder, revision)
    path = f"{subfolder}/{options.file_name}" if subfolder else options.file_name
    data = options.to_file()
    message = commit_message or f"Upload {type(options).__name__}"
    return _push(lambda *_: {path: data}, repo_id, private, create_pr, revision, message, token)


def _for_others(codebook: Codebook, base_model: str | None) -> Codebook:
    """The same codebook under a model's public name: the directory it was loaded from is nobody else's business."""
    if base_model is not None and (not isinstance(base_model, str) or base_model_id(base_model) is None):
        raise CodebookHubError(f"base_model {base_model!r} is not a Hub id; use 'owner/name'.")
    own = codebook.identity.name
    public = copy.copy(codebook)
    public.identity = replace(codebook.identity, name=base_model or base_model_id(own) or PurePath(own).name)
    return public


def _push(files, repo_id, private, create_pr, revision, message, token) -> CommitInfo:
    api = hub_api(token)
    try:
        full_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private and not api.model_info(full_id).private:
            raise CodebookHubError(
                f"Cannot push to {full_id} privately: the repository exists and is public. Make it private in its "
                "settings, choose another name, or leave out private=True."
            )
        if revision and not revision.startswith("refs/") and not create_pr:
            api.create_branch(full_id, branch=revision, exist_ok=True)

        def commit() -> CommitInfo:
            head = api.model_info(full_id, revision=revision).sha
            operations = [CommitOperationAdd(path, data) for path, data in sorted(files(api, full_id, head).items())]
            # With its parent named, a push that meets another one is refused and made anew instead of undoing it.
            return api.create_commit(
                full_id,
                operations,
                commit_message=message,
                revision=revision,
                create_pr=create_pr,
                parent_commit=head,
            )

        return with_retries(commit, statuses=(412, 429))
    except CodebookHubError:
        raise
    except Exception as error:
        raise explained(error, f"Cannot push to {repo_id}", revision) from error


def _root_readme(
    api: HfApi,
    repo_id: str,
    head: str,
    codebook: Codebook,
    subfolder: str | None,
    licence: str | None,
    own: bytes | None,
) -> dict[str, bytes]:
    """The README.md at the root after this push; empty if its author keeps it, or if `own` can stay as it is."""
    old: ModelCard | None = None
    try:
        old = ModelCard(Path(api.hf_hub_download(repo_id, README_NAME, revision=head)).read_text(encoding="utf-8"))
    except EntryNotFoundError:
        pass
    if old is not None and GENERATED not in old.text:
        logger.warning(f"The README.md of {repo_id} is its author's own: it was not changed.")
        return {} if subfolder else {README_NAME: str(old).encode()}
    entries = listed_entries(old.data) if old is not None else {}
    entries[subfolder or ""] = describe(codebook)
    card = ModelCard(repository_card(entries, repo_id, licence))
    if "" in entries:  # a codebook at the root keeps its own text; its metadata list the others too
        text = ModelCard(own.decode()).text if own is not None else (old.text if old is not None else "")
        card = ModelCard(f"---\n{card.data.to_yaml()}\n---\n{text}")
    return {README_NAME: str(card).encode()}


def _licence_of_base(api: HfApi, base_model: str | None) -> str | None:
    """The licence on the base model's card, which its statistics inherit; None where it cannot be read."""
    if base_model is None:
        return None
    try:
        card = api.model_info(base_model).card_data
    except (HfHubHTTPError, *transport_errors()):  # type: ignore[misc]  # mypy reads no starred tuple here
        return None
    return card.license if card is not None and isinstance(card.license, str) else None
