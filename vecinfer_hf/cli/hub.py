# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer push`, `vecinfer pull` and `vecinfer find`: codebooks on the Hugging Face Hub."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..codebook.codebook import Codebook
from ..codebook.files import CONFIG_NAME, TENSORS_NAME
from .console import output, print_json, print_table
from .inspect import print_codebook
from .loading import AsJson, Revision


Subfolder = Annotated[str | None, typer.Option(help="Directory inside the repository, which can hold several.")]


def push(
    codebook: Annotated[Path, typer.Argument(help="Directory of a codebook.")],
    repository: Annotated[str, typer.Argument(help="Hub repository, owner/name; created if it does not exist.")],
    subfolder: Subfolder = None,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Who sees a new repository; default: the owner's setting."),
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Offer it as a pull request.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to; created if it does not exist.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Hub id of the model it is for; default: the one it was calibrated on.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="First line of the commit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a codebook and its card to the Hub, in one commit."""
    if not (codebook / CONFIG_NAME).is_file():
        raise ValueError(f"{codebook} holds no codebook; `vecinfer calibrate` makes one, `--output` says where.")
    loaded = Codebook.from_pretrained(codebook)
    commit = loaded.push_to_hub(
        repository,
        subfolder=subfolder,
        private=private,
        create_pr=create_pr,
        revision=revision,
        commit_message=message,
        base_model=base_model,
    )
    if as_json:
        print_json({"commit": commit.oid, "url": str(commit.commit_url), "pull_request": commit.pr_url})
    else:
        output.print(commit.pr_url or commit.commit_url, markup=False, highlight=False, soft_wrap=True)


def pull(
    repository: Annotated[str, typer.Argument(help="Hub repository, owner/name.")],
    subfolder: Subfolder = None,
    revision: Revision = None,
    directory: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also copy it into this directory; default: the Hub cache only."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Download again what is cached.")] = False,
    as_json: AsJson = False,
) -> None:
    """Download a codebook into the Hub cache, check it, and show it."""
    from ..hub import download_codebook

    if directory is not None and directory.exists() and (directory.is_file() or any(directory.iterdir())):
        raise ValueError(f"--output {directory} exists and is not empty; give a new directory.")
    place, commit = download_codebook(repository, revision=revision, subfolder=subfolder, force_download=force)
    loaded = Codebook.from_pretrained(place)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        for name in (TENSORS_NAME, "README.md", CONFIG_NAME):
            if (place / name).is_file():
                shutil.copyfile(place / name, directory / name)
        place = directory
    if as_json:
        print_json({"commit": commit, "directory": str(place)})
    else:
        print_codebook(loaded)
        output.print(f"commit: {commit}\ndirectory: {place}", markup=False, highlight=False, soft_wrap=True)


def find(
    model: Annotated[str, typer.Argument(help="Hub id or directory of a model.")],
    bits: Annotated[float | None, typer.Option(help="Bits per element wanted; default: any.")] = None,
    trust: Annotated[list[str] | None, typer.Option(help="Hub owner to trust; may be given several times.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the codebooks known for a model, those to prefer first. Downloads none."""
    from ..hub.search import find_codebooks

    found = find_codebooks(model, bits, trusted_owners=trust)
    if as_json:
        print_json([asdict(item) for item in found])
        return
    if not found:
        output.print(f"No codebook is known for {model}; `vecinfer calibrate` makes one.", markup=False)
        return
    bits_of = [f"{item.bits_per_element:g}" if item.bits_per_element else "?" for item in found]
    print_table(
        f"Codebooks for {model}",
        ("codebook", "subfolder", "bits", "trusted", "why"),
        [
            (item.name, item.subfolder or "", bits, "yes" if item.trusted else "no", item.why)
            for item, bits in zip(found, bits_of, strict=True)
        ],
    )
