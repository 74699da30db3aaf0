# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Bad command lines, made from the commands' own parameters: each right line with one thing wrong."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import typer
from tiny_codebooks import random_codebook
from tiny_models import tiny_model

from vecinfer_hf.cli.app import app


class Line(NamedTuple):
    """A command line and what is wrong with it."""

    what: str
    words: tuple[str, ...]


class Places(NamedTuple):
    """Directories and files that the lines name: right ones, and some of the wrong kind."""

    model: Path
    codebook: Path
    text: Path
    binary: Path
    empty: Path
    full_directory: Path
    missing: Path


def make_places(directory: Path) -> Places:
    """Write a tiny model with a tokenizer of words, a codebook for it, and texts."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    model = directory / "model"
    raw = Tokenizer(WordLevel({f"w{i}": i for i in range(97)}, unk_token="w2"))
    raw.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="w0", unk_token="w2")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer.save_pretrained(model)
    tiny = tiny_model("llama")
    tiny.save_pretrained(model)
    random_codebook(tiny.config).save_pretrained(directory / "codebook")
    (directory / "book.txt").write_text(" ".join(f"w{7 * i % 97}" for i in range(3000)))
    (directory / "binary").write_bytes(bytes(range(256)) * 40)
    (directory / "empty").write_text("")
    (directory / "full").mkdir()
    (directory / "full" / "something").write_text("x")
    names = ("model", "codebook", "book.txt", "binary", "empty", "full", "missing")
    return Places(*(directory / name for name in names))


def right_words(command: str, places: Places, output: Path) -> list[str] | None:
    """Return the arguments of a line that is right and does little, or None for a command that is not known here."""
    model, codebook, text = map(str, (places.model, places.codebook, places.text))
    small = ["--text", text, "--num-tokens", "256", "--sequence-length", "128", "--num-iterations", "1"]
    return {
        "calibrate": [model, "--output", str(output), *small, "--recipe", "query"],
        "generate": [model, "--codebook", codebook, "--prompt", "w5 w6 w7", "--max-new-tokens", "2"],
        "evaluate": [model, "--codebook", codebook, "--text", text, "--window-length", "64", "--max-windows", "1"],
        "inspect": [codebook],
        "convert": [codebook, "--output", str(output)],
        "push": [codebook, "somebody/something"],
        "pull": ["somebody/something"],
        "find": [model],
        "plan": [model],
        "bench": [model, "--contexts", "60", "--new-tokens", "10", "--device", "cpu"],
        "doctor": [],
    }.get(command)


def plain_types(callback) -> dict[str, set[type]]:
    """Return the plain types of a command's parameters: `int` for `list[int] | None`."""

    def parts(hint) -> set[type]:
        inner = typing.get_args(hint)
        return {part for each in inner for part in parts(each)} if inner else {hint}

    return {name: parts(hint) for name, hint in typing.get_type_hints(callback).items()}


def nasty_values(name: str, kinds: set[type], places: Places) -> list[str]:
    """Return values that no command can take for a parameter, by its name or else by its types."""
    missing, text, full = str(places.missing), str(places.text), str(places.full_directory)
    below_a_file = str(places.text / "below")
    named = {
        "model": ["", missing, text, full, "no such model", "/"],
        "shape": ["", missing, text, full, "/"],
        "contexts": ["", ",", "4k", "0", "-5", "1.5"],
        "bits": ["", "3", "0", "-2", "nan", "two"],
        "codebook": ["", missing, text, full, str(places.model), "no/such/codebook/at/all", "/"],
        "output_directory": ["", text, below_a_file, "/proc/nothing/here"],
        "output_file": ["", full, below_a_file, f"{missing}/report.json"],
        "directory": ["", text, below_a_file, full],
        "json_file": ["", full, below_a_file],
        "plot_file": ["", full, below_a_file],
        "text": ["", missing, full, str(places.binary), str(places.empty)],
        "dtype": ["", "float33", "int8", "load", "Float32", "torch.float32"],
        "device": ["", "tpu9", "cuda:99", "gpu", "cpu:x"],
        "ops_backend": ["", "fast", "CUDA"],
        "sink_choice": ["", "last"],
        "recipe": ["", "best"],
        "key_bits": ["", "3", "0", "-2", "nan", "inf", "d3b8", "d4b8x9", "two"],
        "value_bits": ["", "3", "1e400", "d4b99"],
        "revision": [""],
        "subfolder": ["", "../..", "/etc"],
        "repository": ["", "a/b/c", "..", "a b/c", "/x", "x" * 300 + "/y"],
        "gpu_memory": ["", "24", "GB", "-3GB", "nanGB", "24XB", "0GB"],
        "reserve": ["", "3", "-3GB", "99999GB"],
        "prompt": ["", "   ", "\n"],
        "operator": ["", "nothing"],
        "base_model": ["", "a/b/c"],
    }
    if name in named:
        return named[name]
    if int in kinds:
        return ["", "x", "1.5", "-5", "1e3", "nan"]
    if float in kinds:
        return ["", "x", "nan", "inf", "-1", "--"]
    return []


def without(words: list[str], options: list[str]) -> list[str]:
    """Return the words without an option, by any of its names, and its value."""
    for option in options:
        while option in words:
            at = words.index(option)
            words = words[:at] + words[at + 2 :]
    return words


def bad_lines(places: Places, output: Path) -> Iterator[Line]:
    """Yield command lines, each with one thing wrong."""
    group = typer.main.get_command(app)
    types = {entry.name or entry.callback.__name__: plain_types(entry.callback) for entry in app.registered_commands}
    for words in (("nothing",), ("--nothing",), ("",), ("inspect", "inspect", "inspect")):
        yield Line(f"no such command: {words}", words)
    for name, command in group.commands.items():
        right = right_words(name, places, output)
        if right is None:
            continue
        yield Line("an unknown option", (name, *right, "--no-such-option"))
        yield Line("one argument too many", (name, *right, "more", "and more", "and more"))
        arguments = [parameter for parameter in command.params if not parameter.opts[0].startswith("-")]
        for parameter in command.params:
            kinds = types[name].get(parameter.name, set())
            values = nasty_values(parameter.name, kinds, places)
            if parameter in arguments:
                at = arguments.index(parameter)
                if parameter.required:
                    yield Line(f"no {parameter.name}", (name, *right[:at], *right[at + 1 :]))
                for value in values:
                    yield Line(f"{parameter.name} {value!r}", (name, *right[:at], value, *right[at + 1 :]))
                continue
            option = max(parameter.opts, key=len)
            if option == "--help":
                continue
            rest = without(right, parameter.opts)
            if parameter.required:
                yield Line(f"no {option}", (name, *rest))
            if bool in kinds:
                yield Line(f"{option} with a value", (name, *rest, f"{option}=maybe"))
                continue
            yield Line(f"{option} without a value", (name, *rest, option))
            for value in values:
                yield Line(f"{option} {value!r}", (name, *rest, f"{option}={value}"))
