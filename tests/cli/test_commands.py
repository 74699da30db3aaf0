# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The commands end with code 0 and true output, and on bad input with code 2, one line, and files as they were."""

import json
import re

import pytest
from command_line import error_line
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf import Codebook
from vecinfer_hf.cli.app import main
from vecinfer_hf.cli.console import size


def test_help_lists_every_command(vecinfer):
    code, out, _ = vecinfer("--help")
    assert code == 0
    for command in ("calibrate", "generate", "evaluate", "inspect", "push", "pull", "find", "plan", "bench", "doctor"):
        assert f" {command} " in out


def test_inspect_shows_every_layer(vecinfer, tiny_codebook_directory):
    code, out, _ = vecinfer("inspect", tiny_codebook_directory)
    assert code == 0
    assert "2 bits per element" in out
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


def test_generate_streams_and_tells_the_size(vecinfer, tiny_model_directory, tiny_codebook_directory):
    arguments = ("generate", tiny_model_directory, "--codebook", tiny_codebook_directory, "--max-new-tokens", 9)
    code, out, err = vecinfer(*arguments, "--prompt", "Once upon a time", "--residual-length", 16)
    assert code == 0
    assert out.strip()
    assert "9 tokens; cache of 12 tokens" in err
    assert vecinfer(*arguments, "--prompt", "Once upon a time")[1] == out  # greedy


def test_generate_in_chat_form_and_with_sampling(vecinfer, tiny_model_directory, tiny_codebook_directory):
    arguments = ("generate", tiny_model_directory, "-c", tiny_codebook_directory, "--max-new-tokens", 5, "-p", "Hello")
    code, _, err = vecinfer(*arguments, "--chat", "--temperature", 0.7)
    assert code == 0
    assert "5 tokens; cache of" in err


def test_generate_reads_standard_input(vecinfer, monkeypatch, tiny_model_directory, tiny_codebook_directory):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("From a pipe"))
    code, out, _ = vecinfer(
        "generate", tiny_model_directory, "-c", tiny_codebook_directory, "--max-new-tokens", 3, "--dtype", "bfloat16"
    )
    assert code == 0
    assert out


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


def test_codebook_that_is_none(vecinfer, tmp_path):
    line = error_line(vecinfer("inspect", tmp_path))
    assert "config.json" in line


def test_empty_prompt(vecinfer, tiny_model_directory, tiny_codebook_directory):
    line = error_line(vecinfer("generate", tiny_model_directory, "-c", tiny_codebook_directory, "-p", "  "))
    assert "prompt is empty" in line


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--dtype", "float7", "--dtype is 'float7'"),
        ("--dtype", "nn", "--dtype is 'nn'"),
        ("--device", "toaster", "--device is 'toaster'"),
        ("--ops-backend", "fast", "ops_backend is 'fast'"),
    ],
)
def test_unknown_choices(vecinfer, tiny_model_directory, tiny_codebook_directory, option, value, message):
    arguments = ("generate", tiny_model_directory, "-c", tiny_codebook_directory, "-p", "Hello")
    assert message in error_line(vecinfer(*arguments, option, value))


def test_unknown_option_is_refused_with_code_2(vecinfer):
    code, out, err = vecinfer("inspect", "--colour")
    assert code == 2
    assert out == ""
    assert "--colour" in err


def test_traceback_on_request(monkeypatch, tmp_path):
    monkeypatch.setenv("VECINFER_TRACEBACK", "1")
    with pytest.raises(ValueError, match=r"config\.json"):
        main(["inspect", str(tmp_path)])


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
