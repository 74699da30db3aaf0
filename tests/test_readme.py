# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The pages say what is true: code runs, commands and options exist, links lead somewhere."""

import re

import pytest
import typer
from pages import ROOT, commands, page, steps

from examples.benchmarks.__main__ import app as benchmarks
from examples.benchmarks.codebooks import app as codebooks
from examples.research.ablation import argument_parser
from examples.research.evaluate import app as evaluate
from examples.research.pages import app as pages_app
from vecinfer_hf.cli.app import app


PAGES = {
    name: page(name)
    for name in (
        "README.md",
        "METHOD.md",
        "API.md",
        "ERRORS.md",
        "CONTRIBUTING.md",
        "quant_configs/README.md",
        "quant_configs/CALIBRATE.md",
        "examples/research/README.md",
        "examples/research/MEASURES.md",
    )
}
README = PAGES["README.md"]


def all_commands(*program):
    """Return the words after `program` of all pages' commands."""
    return sorted(set().union(*(commands(text, *program) for text in PAGES.values())))


def test_first_python_block_is_short_and_early():
    block = next(step for step in steps(README) if step.language == "python")
    assert block.line <= 40
    assert len(block.text.splitlines()) <= 12


def test_first_python_block_runs(smollm2_path, capsys):
    block = next(step.text for step in steps(README) if step.language == "python")
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "vecinfer_hf.enable(model)" in block
    assert name in block
    block = block.replace(name, str(smollm2_path)).replace("max_new_tokens=50", "max_new_tokens=5")
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.count("Once upon a time") >= 1
    assert len(printed) > len("Once upon a time\n")


def test_first_screen_has_a_picture_and_three_numbers_before_the_code():
    screen = README.partition("```python")[0]
    assert len(re.findall(r"^!\[", screen, re.MULTILINE)) == 1
    assert len(re.findall(r"^\| .*\*\*[\d.,]+\*\* \|$", screen, re.MULTILINE)) == 3


def accepts(command, words):
    """Whether a click command takes these words; those without options are a command's name in a sentence."""
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("-") and word != "-"} <= options
    if any(word.startswith("-") for word in words):
        command.make_context(command.name, list(words))


@pytest.mark.parametrize("words", all_commands("vecinfer"), ids=" ".join)
def test_every_vecinfer_command_parses(words):
    group = typer.main.get_command(app)
    assert words[0] in group.commands
    command, rest = group.commands[words[0]], words[1:]
    if getattr(command, "commands", None) and rest:
        assert rest[0] in command.commands
        command, rest = command.commands[rest[0]], rest[1:]
    accepts(command, rest)


@pytest.mark.parametrize("words", all_commands("python", "-m"), ids=" ".join)
def test_every_module_of_the_examples_parses(words):
    module, *rest = words
    known = {
        "examples.research.evaluate": evaluate,
        "examples.benchmarks": benchmarks,
        "examples.benchmarks.codebooks": codebooks,
        "examples.research.pages": pages_app,
    }
    if module in known:
        accepts(typer.main.get_command(known[module]), rest)
    elif module == "examples.research.ablation" and rest:
        argument_parser().parse_args([*rest, "--text", "x", "--output", "x"])
    else:
        plain = ("examples.assets", "examples.research.ablation", "examples.research.plots")
        assert module in (*plain, "examples.release.api_page", "examples.release.check")
        assert module != "examples.research.plots" or len(rest) == 2


def test_commands_are_found():
    assert len(all_commands("vecinfer")) > 10
    assert len(all_commands("python", "-m")) > 10


@pytest.mark.parametrize("words", all_commands("make"), ids=" ".join)
def test_every_make_target_exists(words):
    makefile = page("Makefile")
    assert re.search(rf"^{re.escape(words[0])}:", makefile, re.MULTILINE)


def test_ci_runs_the_test_command_of_the_readme():
    assert any(words[0] == "test" for words in commands(README, "make"))
    assert "make_here test " in page(".ci/run")


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_to_files_and_headings_lead_somewhere(name):
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGES[name]):
        path, _, anchor = target.partition("#")
        file = folder / path if path else ROOT / name
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


def test_links_of_the_package_description_are_absolute():
    """What the build writes into the metadata, by the substitutions of pyproject.toml; there is one address."""
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    project = tomllib.loads(page("pyproject.toml"))
    text = README
    for rule in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    repository = project["project"]["urls"]["Repository"]
    raw = repository.replace("github.com", "raw.githubusercontent.com")
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert shown
    assert all(target.startswith(f"{raw}/main/") for target in shown)
    linked = re.findall(r"(?<!!)\[[^\]]*\]\(([^)]+)\)", text)
    ours = [target for target in linked if target.startswith(repository)]
    assert len(ours) > 5
    assert all((ROOT / target.removeprefix(f"{repository}/blob/main/").partition("#")[0]).exists() for target in ours)
    assert all(target.startswith(("https://", "#")) for target in linked)


def test_marks_hold_for_a_block_or_for_a_line():
    text = "```bash\n# in a checkout\none \\\n  --more\n```\n```bash\ntwo  # on a GPU, in a checkout: x\nthree\n```\n"
    assert [(step.text.split()[0], sorted(step.marks), step.line) for step in steps(text)] == [
        ("one", ["in a checkout"], 3),
        ("two", ["in a checkout", "on a GPU"], 7),
        ("three", [], 8),
    ]


def test_what_is_marked_as_in_a_checkout_needs_one():
    marked = [step.text for step in steps(README) if "in a checkout" in step.marks]
    assert marked
    assert not [text for text in marked if not re.search(r"\bmake\b|\bexamples\b|\bmodels/|pip install \.", text)]
