# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer convert`: a codebook of an earlier version in today's format."""

from __future__ import annotations

from ..codebook.codebook import Codebook
from ..codebook.description import FORMAT_VERSION
from ..codebook.files import CONFIG_NAME, load_files
from ..errors import CodebookError
from .console import output, print_json
from .options import AsJson, CodebookDirectory, OutputOrNone, check_output


def convert(directory: CodebookDirectory, output_directory: OutputOrNone = None, as_json: AsJson = False) -> None:
    """Rewrite a codebook in the newest format, in place or with --output elsewhere; its tensors stay the same."""
    if not (directory / CONFIG_NAME).is_file():
        raise CodebookError(f"{directory} holds no codebook; give the directory of one.")
    target = directory if output_directory is None else output_directory
    check_output(target)
    needless = output_directory is None and load_files(directory)[0].sha256 is not None
    if not needless:
        Codebook.from_pretrained(directory).save_pretrained(target)
    if as_json:
        print_json({"directory": str(target), "format_version": FORMAT_VERSION, "converted": not needless})
    elif needless:
        text = f"{directory} has format {FORMAT_VERSION} already; nothing to do."
        output.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        output.print(f"Saved in format {FORMAT_VERSION} to {target}", markup=False, highlight=False, soft_wrap=True)
