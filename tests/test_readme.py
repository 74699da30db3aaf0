# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""README says what is true: its code runs, its commands and options exist, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from vecinfer_hf.cli.app import app
from vecinfer_hf.codebook.shipped import shipped_codebooks


ROOT = Path(__file__).parent.parent
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "METHOD.md", "CONTRIBUTING.md")}
README = PAGES["README.md"]


def blocks(page, language):
    """Return (line of the end, content) of the fenced blocks of a language."""
    found = []
    for match in re.finditer(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        found.append((page[: match.end()].count("\n") + 1, match.group(1)))
    return found


def commands(program):
    """Return the words after `program` in every bash block and in-line code of all pages."""
    lines = [line for page in PAGES.values() for _, block in blocks(page, "bash") for line in block.splitlines()]
    lines += [code for page in PAGES.values() for code in re.findall(r"`([^`\n]+)`", page)]
    words = [shlex.split(line, comments=True) for line in lines if line.split()[:1] == [program]]
    return sorted({tuple(command[1:]) for command in words if len(command) > 1})


def test_first_python_block_is_short_and_early():
    end, block = blocks(README, "python")[0]
    assert end <= 40
    assert len(block.splitlines()) <= 12


def test_first_python_block_runs(smollm2_path, capsys):
    _, block = blocks(README, "python")[0]
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    codebook = re.search(r'"(SmolLM2-135M-Instruct/[^"]+)"', block).group(1)
    assert (shipped_codebooks() / codebook / "config.json").is_file()
    assert name in block
    block = block.replace(name, str(smollm2_path)).replace("max_new_tokens=50", "max_new_tokens=5")
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.count("Once upon a time") >= 1
    assert len(printed) > len("Once upon a time\n")


@pytest.mark.parametrize("command", commands("vecinfer"), ids=" ".join)
def test_every_vecinfer_command_parses(command):
    group = typer.main.get_command(app)
    assert command[0] in group.commands
    options = {name for parameter in group.commands[command[0]].params for name in parameter.opts}
    assert {word for word in command[1:] if word.startswith("-")} <= options
    if "-" in "".join(word[:1] for word in command[1:]):  # a whole command line: its arguments must be accepted too
        group.commands[command[0]].make_context(command[0], list(command[1:]))


@pytest.mark.parametrize("command", commands("make"), ids=" ".join)
def test_every_make_target_exists(command):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(command[0])}:", makefile, re.MULTILINE)


def test_ci_runs_the_test_command_of_the_readme():
    assert any(command[0] == "test" for command in commands("make"))
    assert "make_here test " in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", PAGES[page])
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing
