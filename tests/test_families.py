# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Every family with every operation: as the default cache while all is exact, as METHOD.md when coded, or refused.

Three families run by default, all of them with --slow.
"""

import contextlib
from pathlib import Path

import family_table
import pytest
import torch
import transformers
from family_operations import CODED, DEFAULT, EXACT, OPERATIONS, Run, plain
from method_hooks import following
from model_families import FAMILIES, family_model, is_available
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs

import vecinfer_hf
from vecinfer_hf import CalibrationConfig, VecInferError, calibrate
from vecinfer_hf.calibration_config import RECIPES
from vecinfer_hf.integration.compat import returned_cache


BY_DEFAULT = ("qwen3_next", "gemma4_e4b", "gemma3_image")
"""Recurrent layers; shared layers and heads of two sizes; masks of images."""
CELLS = [
    pytest.param(family, operation, marks=() if family in BY_DEFAULT else pytest.mark.slow)
    for family in FAMILIES
    for operation in family_table.OPERATIONS
    if family_table.applies(family, operation)
]
EQUAL = 1e-4
"""Of the largest logit: chunked forms of recurrent layers add in another order than whole prompts do."""


def available_model(family):
    if not is_available(family):
        pytest.skip(f"transformers {transformers.__version__} has no {FAMILIES[family].model}")
    return family_model(family)


def run(family, operation, kind, codebook=None):
    """Return the logits of an operation with one kind of cache."""
    model = available_model(family)
    if kind != DEFAULT:
        model.config.get_text_config(decoder=True)._attn_implementation = {"": "vecinfer"}
    with following(model) if kind == CODED else contextlib.nullcontext() as follower:
        used = Run(family, model, kind, codebook, follower)
        logits = operation(used)
        if kind == CODED:
            assert follower.compared > 0
            used.check_coded()
    assert torch.isfinite(logits).all()
    return logits


def saved(family, tmp_path):
    """A model saved while enabled uses the same codes after it is loaded."""
    model = available_model(family)
    random_codebook(model.config).save_pretrained(tmp_path / "codebook")
    vecinfer_hf.enable(model, str(tmp_path / "codebook"), residual_length=8, ops_backend="reference")
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model").eval()
    call = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}
    outputs = [each.generate(tiny_inputs(1, 40, vocab_size=90), **call) for each in (model, again)]
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    layers = returned_cache(outputs[1]).quantized_layers
    assert layers
    assert all(max(layer.storage.quantized) > 0 for layer in layers)


def calibrated(family):
    """Codebooks of every recipe run as METHOD.md says."""
    for recipe in RECIPES:
        config = CalibrationConfig(recipe=recipe, sequence_length=64, residual_length=8, num_iterations=2)
        codebook = calibrate(
            available_model(family), tiny_inputs(1, 256, vocab_size=90), config=config, progress=False
        )
        assert codebook.config.recipe == recipe
        run(family, plain, CODED, codebook)


@pytest.mark.parametrize(("family", "operation"), CELLS)
def test_cell(family, operation, tmp_path):
    words = family_table.refusal(family, operation)
    if operation in ("saved", "calibrated"):
        cell = {"saved": lambda: saved(family, tmp_path), "calibrated": lambda: calibrated(family)}[operation]
        if words is None:
            cell()
            return
        with pytest.raises(VecInferError, match=words):
            cell()
        return
    function = OPERATIONS[operation]
    if words is None:
        expected, found = run(family, function, DEFAULT), run(family, function, EXACT)
        assert (found - expected).abs().max() <= EQUAL * expected.abs().max()
        run(family, function, CODED)
        return
    # What is refused is refused with the default cache as well, by transformers.
    with pytest.raises((ValueError, RuntimeError)):
        run(family, function, DEFAULT)
    for kind in (EXACT, CODED):
        with pytest.raises((VecInferError, ValueError, RuntimeError), match=words):
            run(family, function, kind)


def test_the_table_has_the_families_and_operations_of_the_tests():
    assert set(family_table.TITLES) == set(FAMILIES)
    assert len(FAMILIES) >= 30
    assert len(family_table.OPERATIONS) >= 14
    assert set(OPERATIONS) == set(family_table.OPERATIONS) - {"saved", "calibrated"}


@pytest.mark.parametrize(
    ("page", "table"),
    [("README.md", family_table.readme_table), ("METHOD.md", family_table.method_table)],
    ids=["README", "METHOD"],
)
def test_the_pages_have_this_table(page, table):
    """`python tests/support/family_table.py` prints both."""
    assert table() in (Path(__file__).parents[1] / page).read_text(encoding="utf-8")
