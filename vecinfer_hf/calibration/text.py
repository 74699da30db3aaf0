# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Plain text by the name a user gives: a file, standard input, or an excerpt that comes with the package."""

from __future__ import annotations

import sys
from pathlib import Path


EXCERPTS = ("persuasion-excerpt", "northanger-excerpt")
"""The openings of Jane Austen's Persuasion and Northanger Abbey: calibrate on the first, measure on the second."""

STANDARD_INPUT = "-"

_DATA = Path(__file__).parent / "data"


def load_text(name_or_path: str | Path) -> str:
    """Return a text.

    Args:
        name_or_path: one of `EXCERPTS`, "-" for standard input, or the path of a UTF-8 file. The name of an excerpt
            wins over a file of the same name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the text is not UTF-8, or if there is nothing but white space in it.
    """
    name = str(name_or_path)
    path = _DATA / f"{name}.txt" if name in EXCERPTS else Path(name).expanduser()
    if name == STANDARD_INPUT:
        content = sys.stdin.buffer.read()
    elif path.is_file():
        content = path.read_bytes()
    else:
        raise FileNotFoundError(
            f"{name} is no file; give the path of a plain text file, - for standard input, or an excerpt that comes "
            f"with the package: {', '.join(EXCERPTS)}."
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text ({error}); convert it first.") from None
    if not text.strip():
        raise ValueError(f"{name} holds no text; give one with words in it.")
    # What a file opened as text would give.
    return text.replace("\r\n", "\n").replace("\r", "\n")
