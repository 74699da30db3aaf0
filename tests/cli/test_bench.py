# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer bench`: a table, JSON, and what it refuses."""

import json

import pytest
import torch
from command_line import error_line
from tiny_models import tiny_config

from vecinfer_hf.cli.bench import numbers
from vecinfer_hf.evaluation.speed import CACHES


@pytest.fixture
def shape(tmp_path):
    """A directory with nothing but the config of a tiny model."""
    tiny_config("llama").save_pretrained(tmp_path)
    return tmp_path


SMALL = ("--contexts", "60,30", "--new-tokens", 10, "--device", "cpu")


def test_the_table_has_a_line_for_each_cache_and_length(vecinfer, shape):
    code, out, err = vecinfer("bench", shape, *SMALL)
    assert code == 0
    assert "float32, 2 bits; cpu" in " ".join(out.split())
    for name in CACHES:
        for length in ("60", "30"):
            assert f" {name} {length} " in " ".join(out.split()), (name, length)
    assert "... vecinfer static, 30 tokens" in err


def test_json(vecinfer, shape):
    code, out, _ = vecinfer("bench", shape, *SMALL, "--batch-size", 3, "--dtype", "bfloat16", "--bits", 4, "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["bits"], report["dtype"], report["device"]) == ("4", "bfloat16", "cpu")
    assert [(row["cache"], row["context"]) for row in report["rows"]] == [(n, c) for n in CACHES for c in (60, 30)]
    assert all(row["tokens_per_second"] > 0 and row["batch_size"] == 3 for row in report["rows"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_large_default_needs_a_gpu_or_insistence(vecinfer):
    assert "insist with --device cpu" in error_line(vecinfer("bench"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--contexts", "4k"), "'4k' is no list of lengths"),
        (("--bits", "3"), "3"),
        (("--dtype", "float7"), "--dtype is 'float7'"),
        (("--new-tokens", 5), "new_tokens is 5"),
    ],
)
def test_what_cannot_be_measured_is_refused(vecinfer, shape, given, message):
    assert message in vecinfer("bench", shape, *SMALL, *given)[2]


def test_lists_of_lengths():
    assert numbers("4096, 8192,") == [4096, 8192]
    with pytest.raises(ValueError, match="write whole numbers"):
        numbers("4k")
    with pytest.raises(ValueError, match="length below 1"):
        numbers("0")


@pytest.mark.gpu
def test_on_a_gpu_memory_is_counted_too(vecinfer, shape):
    code, out, _ = vecinfer("bench", shape, "--contexts", "60", "--json")
    assert code == 0
    assert all(row["peak_nbytes"] > row["cache_nbytes"] for row in json.loads(out)["rows"])
