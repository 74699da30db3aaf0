# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer push`, `vecinfer pull` and `vecinfer find`: codebooks on the Hugging Face Hub."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..codebook.codebook import Codebook
from ..codebook.files import CONFIG_NAME, TENSORS_NAME
from ..errors import CodebookError, ConfigError
from .console import errors, output, print_json, print_table
from .inspect import print_codebook
from .options import (
    AsJson,
    CodebookDirectory,
    Model,
    OutputOrNone,
    Revision,
    Subfolder,
    Trust,
    check_output,
    positive_value,
    text_value,
)


def _wanted(what: str) -> Any:
    return typer.Option(help=f"{what} wanted; default any.", parser=positive_value, metavar="BITS")


Repository = Annotated[str, typer.Argument(help="Hub repository, owner/name.", parser=text_value)]


def push(
    codebook: CodebookDirectory,
    repository: Repository,
    subfolder: Subfolder = None,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Who sees a new repository; default: the owner's setting."),
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Offer it as a pull request.")] = False,
    revision: Annotated[
        str | None,
        typer.Option(help="Branch to commit to; created if it does not exist.", parser=text_value, metavar="REVISION"),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            help="Hub id of the model it is for; default: the one it was calibrated on.",
            parser=text_value,
            metavar="MODEL",
        ),
    ] = None,
    message: Annotated[
        str | None,
        typer.Option("--message", "-m", help="First line of the commit.", parser=text_value, metavar="TEXT"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a codebook and its card to the Hub, in one commit; a repository that does not exist is created."""
    if not (codebook / CONFIG_NAME).is_file():
        raise CodebookError(f"{codebook} holds no codebook; `vecinfer calibrate` makes one, `--output` says where.")
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
    repository: Repository,
    subfolder: Subfolder = None,
    revision: Revision = None,
    output_directory: OutputOrNone = None,
    force: Annotated[bool, typer.Option("--force", help="Download again what is cached.")] = False,
    as_json: AsJson = False,
) -> None:
    """Download a codebook into the Hub cache, check it, and show it; with --output also copy it there."""
    from ..hub import download_codebook

    if output_directory is not None:
        check_output(output_directory)
        if output_directory.is_dir() and any(output_directory.iterdir()):
            raise ConfigError(f"--output {output_directory} exists and is not empty; give a new directory.")
    place, commit = download_codebook(repository, revision=revision, subfolder=subfolder, force_download=force)
    loaded = Codebook.from_pretrained(place)
    if output_directory is not None:
        output_directory.mkdir(parents=True, exist_ok=True)
        for name in (TENSORS_NAME, "README.md", CONFIG_NAME):
            if (place / name).is_file():
                shutil.copyfile(place / name, output_directory / name)
        place = output_directory
    if as_json:
        print_json({"commit": commit, "directory": str(place)})
    else:
        print_codebook(loaded)
        output.print(f"commit: {commit}\ndirectory: {place}", markup=False, highlight=False, soft_wrap=True)


def find(
    model: Model,
    bits: Annotated[float | None, _wanted("Mean bits per key and value element")] = None,
    key_bits: Annotated[float | None, _wanted("Mean bits per key element")] = None,
    value_bits: Annotated[float | None, _wanted("Mean bits per value element")] = None,
    trust: Trust = None,
    as_json: AsJson = False,
) -> None:
    """List the codebooks known for a model, those to prefer first. Downloads none; exit code 1 if there is none."""
    from ..hub.search import find_codebooks

    found = find_codebooks(model, bits, key_bits=key_bits, value_bits=value_bits, trusted_owners=trust)
    if as_json:
        print_json([asdict(item) for item in found])
    if not found:
        text = f"vecinfer: No codebook is known for {model}; `vecinfer calibrate` makes one."
        errors.print(text, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)
    if as_json:
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
