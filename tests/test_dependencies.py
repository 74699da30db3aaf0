# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The package's direct dependencies are what it imports, no more and no less."""

import ast
import re
import sys

import pytest
from pages import ROOT


tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")


def imported() -> set[str]:
    """The top-level modules that any file of the package imports, wherever in it, without those of Python."""
    found = set()
    for path in (ROOT / "vecinfer_hf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"vecinfer_hf"}


def test_direct_dependencies_are_what_is_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {re.match(r"[\w.-]+", line).group() for line in project["dependencies"]}
    extras = (line for extra in ("plots", "serve") for line in project["optional-dependencies"][extra])
    optional = {re.match(r"[\w.-]+", line).group() for line in extras}
    assert not named & optional
    # transformers' server answers in openai's types.
    assert {name.replace("_", "-") for name in imported()} == (named | optional) - {"openai"}
