# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer generate`: what it prints, and what it refuses before the model is loaded."""

import re
import sys

import pytest
from command_line import error_line


def test_generate_streams_and_tells_the_size(vecinfer, tiny_model_directory, tiny_codebook_directory):
    arguments = ("generate", tiny_model_directory, "--codebook", tiny_codebook_directory, "--max-new-tokens", 9)
    code, out, err = vecinfer(*arguments, "--prompt", "Once upon a time", "--residual-length", 16)
    assert code == 0
    assert out.strip()
    assert "9 tokens; cache of 12 tokens" in err
    assert vecinfer(*arguments, "--prompt", "Once upon a time")[1] == out  # greedy


def test_generate_with_a_static_cache(vecinfer, monkeypatch, tiny_model_directory, tiny_codebook_directory):
    module = sys.modules["vecinfer_hf.cli.generate"]
    caches, original = [], module.returned_cache
    monkeypatch.setattr(module, "returned_cache", lambda result: (caches.append(original(result)), caches[-1])[1])
    arguments = ("generate", tiny_model_directory, "-c", tiny_codebook_directory, "--max-new-tokens", 9, "-p", "Once")
    growing, static = vecinfer(*arguments), vecinfer(*arguments, "--static")
    assert (growing[0], static[0]) == (0, 0)
    assert static[1] == growing[1]
    assert [cache.is_static for cache in caches] == [False, True]
    lengths = [re.search(r"cache of (\d+) tokens: ", err)[1] for _, _, err in (growing, static)]
    assert lengths[0] == lengths[1]


def test_the_codebook_is_auto_unless_named(vecinfer, tiny_model_directory):
    line = error_line(vecinfer("generate", tiny_model_directory, "-p", "Once"))
    assert 'codebook="auto" found none' in line


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--trust", "somebody"), "--trust has an effect only with --codebook auto"),
        (("-c", "auto", "--revision", "v1"), "--revision has no effect with --codebook auto"),
        (("-c", "online", "--subfolder", "2bit"), "--subfolder has no effect with --codebook online"),
        (("--key-bits", "1"), "key_bits=1 was asked for, but the codebook has"),
        (("--ops-backend", "cuda", "--device", "cpu"), "--ops-backend cuda needs a CUDA device"),
        (("--residual-length", 1 << 21), "residual_length is 2097152"),
    ],
)
def test_options_without_effect_and_contradictions(
    vecinfer, monkeypatch, tiny_model_directory, tiny_codebook_directory, given, message
):
    monkeypatch.setattr("vecinfer_hf.cli.app.generate.load_weights", lambda *_: pytest.fail("loaded"))
    arguments = ("generate", tiny_model_directory, "-c", tiny_codebook_directory, "-p", "Hello")
    assert message in error_line(vecinfer(*arguments, *given))


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


def test_a_prompt_without_text(vecinfer, tiny_model_directory, tiny_codebook_directory):
    for prompt, message in (("  ", "prompt is empty"), ("\udcff", "prompt is not UTF-8 text")):
        line = error_line(vecinfer("generate", tiny_model_directory, "-c", tiny_codebook_directory, "-p", prompt))
        assert message in line


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
