# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for all commands, and `vecinfer inspect` and `doctor`: code 0 and true output."""

import json
import os
import re
import subprocess
import sys

import pytest
import typer
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf import Codebook, __version__
from vecinfer_hf.cli.app import app
from vecinfer_hf.cli.console import size


def test_help_lists_every_command(vecinfer):
    code, out, _ = vecinfer("--help")
    assert code == 0
    for command in (
        "calibrate",
        "generate",
        "evaluate",
        "inspect",
        "push",
        "pull",
        "find",
        "plan",
        "bench",
        "doctor",
        "convert",
    ):
        assert f" {command} " in out


def test_inspect_shows_every_layer(vecinfer, tiny_codebook_directory):
    code, out, _ = vecinfer("inspect", tiny_codebook_directory)
    assert code == 0
    assert "2 bits per element" in " ".join(out.split())
    assert out.count("d4b8") == 4
    code, out, _ = vecinfer("inspect", tiny_codebook_directory, "--json")
    codebook = Codebook.from_pretrained(tiny_codebook_directory)
    about = json.loads(out)
    assert about["nbytes"] == codebook.nbytes == sum(layer["nbytes"] for layer in about["layers"])
    assert about["model"] == codebook.identity.to_dict()


def test_inspect_shows_errors_and_formats_of_each_layer(vecinfer, tmp_path):
    codebook = random_codebook(tiny_config("llama"), 4, 1)
    codebook.provenance["errors"] = [{"layer": 0, "key": 0.125, "value": 0.25}]
    codebook.save_pretrained(tmp_path)
    code, out, _ = vecinfer("inspect", tmp_path)
    assert code == 0
    assert "4 / 1" in out
    assert "0.125" in out
    assert json.loads(vecinfer("inspect", tmp_path, "--json")[1])["layers"][0]["value_error"] == 0.25


def test_inspect_shows_provenance_for_people_and_whatever_else_it_holds(vecinfer, tmp_path):
    codebook = random_codebook(tiny_config("llama"), 2, 2)
    texts = [{"name": "c4", "sha256": "0" * 64, "tokens": 12345, "windows": 3}]
    quality = [
        {"text": "wiki", "windows": 1, "window_length": 2048, "perplexity_ratio": 1.00234567},
        {"text": "a[/b]", "perplexity_ratio": 1.0, "kl_divergence": 4e-5},
    ]
    codebook.provenance.update(texts=texts, note=["anything", {"at": "all"}], empty=[])
    codebook.metrics.update(quality=quality, other=[{"text": "no ratio"}, 7])
    codebook.save_pretrained(tmp_path)
    code, out, _ = vecinfer("inspect", tmp_path)
    assert code == 0
    assert "texts (tokens): c4 (12,345)" in out
    assert re.search(r"wiki +1 +2,048 +1\.0023 ", out)
    assert re.search(r"a\[/b\] +1\.0000 +4\.0e-05", out)
    for line in ("note: ['anything', {'at': 'all'}]", "empty: []", "other: [{'text': 'no ratio'}, 7]"):
        assert line in out


def test_options_that_commands_share_are_the_same_everywhere():
    commands = typer.main.get_command(app).commands
    shared = {
        "--codebook": {"evaluate", "generate"},
        "--trust": {"evaluate", "generate", "find"},
        "--subfolder": {"evaluate", "generate", "inspect", "push", "pull"},
        "--output": {"calibrate", "convert", "pull"},
        "--device": {"calibrate", "evaluate", "generate", "bench"},
    }
    for option, least in shared.items():
        found = {
            name: parameter
            for name, command in commands.items()
            for parameter in command.params
            if option in parameter.opts
        }
        assert set(found) >= least, option
        assert len({(tuple(each.opts), each.help, each.metavar) for each in found.values()}) == 1, option


def test_doctor_names_versions_and_says_why_no_kernel_loads(vecinfer):
    code, out, _ = vecinfer("doctor", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["transformers"].startswith("5.")
    assert found["self_check"] == []
    for candidate in found["kernel_candidates"]:
        assert candidate["reason"] or found["kernels_loaded"]
    assert found["kernel_candidates"]
    code, out, _ = vecinfer("doctor")
    assert code == 0
    assert "all in place" in out


def test_version(vecinfer):
    assert vecinfer("--version") == (0, f"vecinfer {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("vecinfer ev", ["evaluate"]),
        ("vecinfer generate --stat", ["--static"]),
        ("vecinfer generate --codebook o", ["online"]),
    ],
)
def test_the_shell_completes_commands_options_and_codebooks(words, offered):
    environment = {
        **os.environ,
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "_VECINFER_COMPLETE": "complete_bash",
    }
    code = "import sys; sys.argv[0] = 'vecinfer'; from vecinfer_hf.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == offered


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.50 kB"),
        (2.5e6, "2.50 MB"),
        (3e9, "3.00 GB"),
        (4e12, "4000.00 GB"),
    ],
)
def test_sizes_in_words(nbytes, text):
    assert size(nbytes) == text
