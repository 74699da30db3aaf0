# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The commands end with code 0 and true output, and on bad input with code 2, one line, and files as they were."""

import json
import re

import pytest
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf import Codebook
from vecinfer_hf.cli import demo
from vecinfer_hf.cli.app import main
from vecinfer_hf.cli.calibrate import bits
from vecinfer_hf.cli.console import size
from vecinfer_hf.cli.loading import load_model


@pytest.fixture
def vecinfer(capsys, monkeypatch):
    """Run the command line; returns (exit code, standard output, standard error)."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run


def error_line(result):
    """Return the one line a failed command printed; the output must be empty."""
    code, out, err = result
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("vecinfer: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]


@pytest.fixture
def book(tmp_path):
    """A small text file."""
    path = tmp_path / "book.txt"
    path.write_text("The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 120)
    return path


def test_help_lists_every_command(vecinfer):
    code, out, _ = vecinfer("--help")
    assert code == 0
    for command in ("demo", "calibrate", "generate", "evaluate", "inspect", "push", "pull", "find", "plan", "doctor"):
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


def test_evaluate_json_and_table_agree(vecinfer, tiny_model_directory, tiny_codebook_directory, book):
    arguments = ("evaluate", tiny_model_directory, "--codebook", tiny_codebook_directory, "--text", book)
    arguments += ("--window-length", 100, "--max-windows", 2, "--residual-length", 16, "--generation-tokens", 8)
    code, out, _ = vecinfer(*arguments, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["tokens"] == 2 * 99
    assert report["residual_length"] == 16
    assert report["perplexity_ratio"] > 1
    assert report["generation"]["new_tokens"] == 8
    assert 0 <= report["generation"]["agreement_length"][0] <= 8
    code, out, _ = vecinfer(*arguments)
    assert code == 0
    assert f"{report['perplexity_ratio']:.4f}" in out
    assert "until they differ" in out


def test_calibrate_then_inspect(vecinfer, tiny_model_directory, book, tmp_path):
    target = tmp_path / "codebook"
    code, out, _ = vecinfer(
        *("calibrate", tiny_model_directory, "--output", target, "--text", book, "--key-bits", 2, "--value-bits", 1),
        *("--num-tokens", 512, "--sequence-length", 256, "--num-iterations", 2, "--residual-length", 32),
    )
    assert code == 0
    assert "2 / 1" in out
    codebook = Codebook.from_pretrained(target)
    assert codebook.config.residual_length == 32
    assert codebook.provenance["texts"][0]["name"] == str(book)


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


SMALL_DEMO = ("--num-tokens", 2048, "--max-new-tokens", 4, "--window-length", 160, "--max-windows", 1)


@pytest.mark.slow
def test_demo_on_the_real_model(vecinfer, smollm2_path, book):
    """Everything the demo does, with less text; `make demo` is the real thing."""
    code, out, _ = vecinfer("demo", *SMALL_DEMO, "--bits", 2, "--text", book)
    assert code == 0
    assert "VecInfer cache, 2 bits per element" in out
    assert "46,080" in out  # 30 layers, 3 heads, 64 channels, keys and values, float32
    assert "2,880" in out


@pytest.fixture
def tiny_demo(tiny_model_directory, monkeypatch):
    """The demo with a tiny model in place of the real one."""
    monkeypatch.setattr(demo, "load_model", lambda name, *rest: load_model(str(tiny_model_directory), *rest))


def test_demo_shows_both_continuations_and_the_table(vecinfer, tiny_demo, book):
    code, out, _ = vecinfer("demo", *SMALL_DEMO, "--bits", 2, "--text", book)
    assert code == 0
    for shown in (
        "Stock cache",
        "VecInfer cache, 2 bits per element",
        "perplexity",
        "bytes per token",
        "KL divergence",
    ):
        assert shown in out
    assert re.search(r"bytes per token +512 +48 ", out)  # 2 layers, 2 heads, 16 channels; values padded to 4 bits


def test_demo_json(vecinfer, tiny_demo, book):
    code, out, _ = vecinfer("demo", *SMALL_DEMO, "--bits", 4, "--text", book, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["perplexity"]["bits_per_element"] == 6  # the value plane of heads of 16 channels is half padding
    assert report["perplexity"]["text"] == str(book)
    assert len(report["generation"]["tokens_vecinfer"]) == 4
    assert report["generation"]["text_stock"]


def test_missing_text(vecinfer, tiny_model_directory, tiny_codebook_directory):
    line = error_line(
        vecinfer("evaluate", tiny_model_directory, "-c", tiny_codebook_directory, "--text", "nowhere.txt")
    )
    assert "nowhere.txt is neither a text file nor one of the known texts" in line


def test_text_too_short_to_evaluate(vecinfer, tiny_model_directory, tiny_codebook_directory, tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    line = error_line(
        vecinfer("evaluate", tiny_model_directory, "-c", tiny_codebook_directory, "--text", tmp_path / "short.txt")
    )
    assert "tokens, but one window needs 2048" in line


def test_text_too_short_to_calibrate_leaves_nothing(vecinfer, tiny_model_directory, tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    line = error_line(
        vecinfer("calibrate", tiny_model_directory, "-o", tmp_path / "out", "--text", tmp_path / "short.txt")
    )
    assert "token" in line
    assert not (tmp_path / "out").exists()


def test_unknown_bits(vecinfer, tiny_model_directory, tmp_path):
    line = error_line(vecinfer("calibrate", tiny_model_directory, "-o", tmp_path / "out", "--key-bits", "3"))
    assert "3" in line
    assert "1.25" in line


def test_output_that_is_a_file_is_kept(vecinfer, tiny_model_directory, tmp_path):
    (tmp_path / "file").write_text("mine")
    line = error_line(vecinfer("calibrate", tiny_model_directory, "-o", tmp_path / "file"))
    assert "is a file" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_codebook_that_is_none(vecinfer, tmp_path):
    line = error_line(vecinfer("inspect", tmp_path))
    assert "config.json" in line


def test_codebook_of_another_model(vecinfer, tiny_model_directory, tmp_path, book):
    random_codebook(tiny_config("llama_mha")).save_pretrained(tmp_path / "other")
    line = error_line(
        vecinfer("evaluate", tiny_model_directory, "-c", tmp_path / "other", "--window-length", 64, "--text", book)
    )
    assert "num_key_value_heads" in line


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


def test_bit_widths_as_the_config_takes_them():
    assert [bits(text) for text in ("2", "4.0", "1.5", "d2b8")] == [2, 4, 1.5, "d2b8"]


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
