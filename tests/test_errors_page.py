# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""ERRORS.md has every error class, and every message in it is one of the code."""

import ast
import builtins
import re

import pytest
from pages import ROOT, page

import vecinfer_hf


VALUE = "\0"
"""Stands for a value in a message of the code; a phrase of the page has `...` there."""
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page("ERRORS.md"), re.MULTILINE | re.DOTALL))
ROWS = [row.split(" | ") for text in SECTIONS.values() for row in re.findall(r"^\| (`.*) \|$", text, re.MULTILINE)]


def messages():
    """Return every string of the package but docstrings, one a line; values of f-strings are `VALUE`."""
    found = []
    for path in sorted((ROOT / "vecinfer_hf").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(getattr(part, "value", "")) if is_text(part) else VALUE for part in node.values)
                )
            elif is_text(node) and id(node) not in docstrings:
                found.append(node.value)
    return "\n".join(text.replace("\n", " ") for text in found)


def is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def pattern(phrase):
    """The expression that finds a phrase in `messages`."""
    return ".*".join(re.escape(part) for part in phrase.split("..."))


@pytest.fixture(scope="module")
def code():
    return messages()


def test_every_error_class_has_a_section():
    classes = {name for name in vecinfer_hf.__all__ if name.endswith("Error")}
    assert set(SECTIONS) == classes | {"Warnings"}


def test_a_section_says_what_its_class_is():
    """Sections name the builtin error that also catches theirs."""
    for name, text in SECTIONS.items():
        also = re.search(r"Also an? `(\w+)`", text)
        if also:
            assert issubclass(getattr(vecinfer_hf, name), getattr(builtins, also[1]))


def test_every_row_has_a_message_a_meaning_and_a_remedy():
    assert len(ROWS) > 50
    assert all(len(row) == 3 and all(row) for row in ROWS)


@pytest.mark.parametrize("section", SECTIONS)
def test_messages_are_those_of_the_code(code, section):
    rows = re.findall(r"^\| (`.*?) \| ", SECTIONS[section], re.MULTILINE)
    assert rows or section == "VecInferError"
    phrases = [phrase for row in rows for phrase in re.findall(r"`(.+?)`", row)]
    assert not [phrase for phrase in phrases if not re.search(pattern(phrase), code)]


def test_phrases_do_not_span_messages():
    text = f"a {VALUE} b\nc"
    assert re.search(pattern("a ... b"), text)
    assert not re.search(pattern("b ... c"), text)
    assert not re.search(pattern("a b"), text)
