# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged codebooks: loading one raises CodebookError, or gives the original in every tensor. Nothing else happens."""

import json
import shutil
from random import Random

import pytest
import torch
from mutations import CONFIG, KINDS
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf import Codebook, CodebookError


@pytest.fixture(scope="module", params=["smooth_scale", "matrix"])
def original(request, tmp_path_factory):
    """A codebook's directory, and the codebook."""
    codebook = random_codebook(tiny_config("llama"), 2, 4, kind=request.param, mean=True, value_kind=request.param)
    codebook.provenance.update(texts=[{"name": "book", "sha256": "0" * 64, "tokens": 1000, "windows": 2}])
    codebook.provenance["errors"] = [{"layer": 0, "key": 0.1, "value": 0.2}]
    codebook.metrics["quality"] = [{"text": "wiki", "perplexity_ratio": 1.01}]
    directory = tmp_path_factory.mktemp("original") / "codebook"
    codebook.save_pretrained(directory)
    return directory, Codebook.from_pretrained(directory)


def problem_with(directory, codebook):
    """Return what is wrong about loading `directory`, a damaged copy of `codebook`, or None."""
    try:
        loaded = Codebook.from_pretrained(directory)
    except CodebookError as error:
        return None if len(str(error).split()) >= 5 else f"the error says nothing: {error!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:150]}"
    if list(loaded.layers) != list(codebook.layers):
        return f"loaded with layers {list(loaded.layers)}"
    for index, layer in codebook.layers.items():
        for name, want, have in zip(layer._fields, layer, loaded.layers[index], strict=True):
            if (want is None) != (have is None) or (want is not None and not torch.equal(want, have)):
                return f"loaded with another {name} in layer {index}"
    return unusable(loaded)


def unusable(codebook):
    """Return why a codebook that was loaded is none that a cache could use, or None."""
    for name, most in (("residual_length", 1 << 20), ("sink_length", 1 << 20)):
        value = getattr(codebook.config, name)
        if type(value) is not int or not 0 <= value <= most:
            return f"loaded with {name} {value!r}"
    try:
        json.dumps([codebook.identity.to_dict(), codebook.provenance, codebook.metrics])
        repr(codebook)
    except BaseException as error:
        return f"loaded, but cannot be shown: {type(error).__name__}: {error}"
    return None


def mutate(original, tmp_path, kind, count, first=0):
    """Damage so many copies; return what was wrong, by seed."""
    directory, codebook = original
    problems = {}
    for seed in range(first, first + count):
        copy = tmp_path / f"{kind.__name__}-{seed}"
        shutil.copytree(directory, copy)
        kind(copy, Random(f"{kind.__name__} {seed}"))
        problem = problem_with(copy, codebook)
        if problem:
            problems[seed] = problem
        shutil.rmtree(copy)
    return problems


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_damaged_codebook_is_refused_or_equal(kind, original, tmp_path):
    assert mutate(original, tmp_path, kind, 5) == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_two_thousand_damaged_codebooks(kind, original, tmp_path):
    problems = mutate(original, tmp_path, kind, 2000 // (2 * len(KINDS)) + 1, first=5)
    assert problems == {}


def test_a_whole_codebook_is_loaded(original):
    """The comparison itself can succeed and fail."""
    directory, codebook = original
    assert problem_with(directory, codebook) is None
    changed = random_codebook(tiny_config("llama"), 2, 4, seed=9)
    assert problem_with(directory, changed) is not None
    assert (directory / CONFIG).is_file()
