# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What counts as a clear error: one that somebody raised on purpose, with words, not one that fell out of torch."""

from __future__ import annotations

import linecache
import re
import traceback
from pathlib import Path

import transformers

import vecinfer_hf


_PACKAGE, _TRANSFORMERS = Path(vecinfer_hf.__file__).parent, Path(transformers.__file__).parent
_ACCIDENTS = (
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    RecursionError,
    ZeroDivisionError,
    UnboundLocalError,
)


def is_refusal(error: BaseException, own: bool = False) -> bool:
    """Return whether an error was raised by a `raise` statement of the package or of transformers, with a sentence.

    With `own` only the package's count. Errors of torch, of Python's own functions (`zip(..., strict=True)`) and
    accidents such as IndexError are none.
    """
    of_the_package = type(error).__module__.split(".")[0] == "vecinfer_hf"
    if not isinstance(error, Exception) or (isinstance(error, _ACCIDENTS) and not of_the_package):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    path = Path(frames[-1].filename)
    line = (linecache.getline(str(path), frames[-1].lineno) or "").strip()
    owners = (_PACKAGE,) if own else (_PACKAGE, _TRANSFORMERS)
    raised = line.startswith("raise ") and any(owner in path.parents for owner in owners)
    return raised and len(str(error).split()) >= 5


def assert_refusal(error: BaseException, own: bool = False) -> None:
    """Fail unless an error is a refusal; the failure shows the error and where it came from."""
    if not is_refusal(error, own):
        raise AssertionError(f"not a clear error: {explain(error)}") from error


def explain(error: BaseException) -> str:
    """Return an error's type, text and last place, for the message of a failing test."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"
    return f"{type(error).__name__} at {place}: {' '.join(str(error).split())[:300]}"


def assert_says_how_to_repair(error: BaseException, words: str = "crop|reset") -> None:
    """Fail unless a refusal names an operation that makes the cache usable again."""
    assert_refusal(error)
    if not re.search(rf"\b({words})\b", str(error)):
        raise AssertionError(f"does not say how to repair the cache: {explain(error)}") from error
