# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The pages of the repository as the tests read them: code blocks, commands, and marks.

A comment marks what needs more than an installed package, by "in a checkout" or "on a GPU": at the top of a block it
marks the block, behind a command that command.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
MARKS = ("in a checkout", "on a GPU")


@dataclass(frozen=True)
class Step:
    """Something a page tells to run: Python code or one shell command.

    Args:
        language: "python" or "bash".
        text: the code, continued lines of a command joined.
        marks: those of `MARKS` that hold.
        line: number of the last line, with the end of the block for Python.
    """

    language: str
    text: str
    marks: frozenset[str]
    line: int


def page(name: str) -> str:
    """Return the text of a page by its path in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def steps(text: str) -> list[Step]:
    """Return what the fenced python and bash blocks of a page tell to run, in order."""
    found = []
    for block in re.finditer(r"^```(python|bash)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        language, code = block.groups()
        end = text[: block.end()].count("\n") + 1
        if language == "python":
            found.append(Step("python", code, _marks(_leading_comments(code)), end))
            continue
        whole = _marks(_leading_comments(code))
        for number, line in enumerate(code.replace("\\\n", " ").splitlines()):
            if line.strip() and not line.lstrip().startswith("#"):
                found.append(Step("bash", line, whole | _marks(_comment(line)), end - code.count("\n") + number))
    return found


def commands(text: str, *program: str) -> set[tuple[str, ...]]:
    """Return the words after `program` of every command in bash blocks and in-line code."""
    lines = [step.text for step in steps(text) if step.language == "bash"]
    lines += re.findall(r"`([^`\n]+)`", text)
    found = set()
    for line in lines:
        try:
            # $seed is a number, $T several options.
            line = re.sub(r"\$[A-Z]\w*", "", re.sub(r"\$[a-z]\w*", "0", line))
            words = shlex.split(line, comments=True)
        except ValueError:  # in-line code that is no command
            continue
        if tuple(words[: len(program)]) == program and len(words) > len(program):
            found.add(tuple(words[len(program) :]))
    return found


def _leading_comments(code: str) -> str:
    lines = code.splitlines()
    count = next((index for index, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(lines[:count])


def _comment(line: str) -> str:
    """The comment behind a command."""
    return line.partition(" #")[2]


def _marks(comment: str) -> frozenset[str]:
    return frozenset(mark for mark in MARKS if mark in comment)
