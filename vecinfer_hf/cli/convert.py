# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer convert`: a codebook of an earlier version in today's format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..codebook.codebook import Codebook
from ..codebook.description import FORMAT_VERSION
from ..codebook.files import CONFIG_NAME, load_files
from .console import output


def convert(
    directory: Annotated[Path, typer.Argument(help="Directory of a codebook.")],
    output_directory: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Directory for the converted codebook; default: in place."),
    ] = None,
) -> None:
    """Rewrite a codebook in the newest format; its tensors stay the same."""
    if not (directory / CONFIG_NAME).is_file():
        raise ValueError(f"{directory} holds no codebook; give the directory of one.")
    if output_directory is None and load_files(directory)[0].sha256 is not None:
        output.print(f"{directory} has format {FORMAT_VERSION} already; nothing to do.", markup=False, highlight=False)
        return
    target = directory if output_directory is None else output_directory
    Codebook.from_pretrained(directory).save_pretrained(target)
    output.print(f"Saved in format {FORMAT_VERSION} to {target}", markup=False, highlight=False, soft_wrap=True)
