# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer calibrate`: make a codebook for a model from text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..calibration import calibrate as make_codebook
from ..calibration.text import EXCERPTS, load_text
from ..calibration_config import CalibrationConfig
from ..config import SINK_CHOICES
from .console import output
from .inspect import print_codebook
from .loading import Device, Dtype, Model, load_model


DEFAULT = CalibrationConfig()
FAST_TOKENS, FAST_SAMPLES, FAST_ITERATIONS = 16384, 4096, 8


def bits(value: str) -> float | str:
    """Return a bit width as CalibrationConfig takes it: a number, or a format name such as "d2b8"."""
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() else number


def calibrate(
    model: Model,
    output_directory: Annotated[Path, typer.Option("--output", "-o", help="Directory for the codebook.")],
    text: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Text file, - for standard input, or an excerpt that comes along ({', '.join(EXCERPTS)}); "
            f"repeatable; default {EXCERPTS[0]}."
        ),
    ] = None,
    key_bits: Annotated[str, typer.Option(help="Bits per key element: 4, 2, 1.5, 1.25, 1 or a format name.")] = "2",
    value_bits: Annotated[str, typer.Option(help="Bits per value element, likewise.")] = "2",
    allocate: Annotated[
        float | None, typer.Option(help="Mean bits to spread over layers, keys and values where they matter (slow).")
    ] = None,
    refine_steps: Annotated[
        int, typer.Option(min=0, help="Gradient steps against the model's output, 70 to 200 (for a GPU).")
    ] = 0,
    retrieval_fraction: Annotated[
        float | None,
        typer.Option(
            help="Fraction of calibration windows that are needle-style facts and questions, 0 <= x < 1 "
            "(default 0.5; 0 for recipes without gradients)."
        ),
    ] = None,
    separator_fraction: Annotated[
        float | None,
        typer.Option(
            help="Fraction of windows with special tokens at random places, 0 <= x <= 1 (default 0.25; 0 for recipes "
            "without gradients)."
        ),
    ] = None,
    recipe: Annotated[str, typer.Option(help="default, query (no gradients), or paper.")] = DEFAULT.recipe,
    fast: Annotated[
        bool, typer.Option("--fast", help="At most 16384 tokens, 8 iterations, recipe query unless it is paper.")
    ] = False,
    sequence_length: Annotated[
        int, typer.Option(help="Tokens per window; cover the positions that will be used.")
    ] = DEFAULT.sequence_length,
    num_tokens: Annotated[
        int, typer.Option(help="Tokens of text to read, at most, but one window at least.")
    ] = DEFAULT.num_tokens,
    num_iterations: Annotated[int, typer.Option(help="Iterations of k-means.")] = DEFAULT.num_iterations,
    residual_length: Annotated[int, typer.Option(help="Recent tokens kept exact.")] = DEFAULT.residual_length,
    sink_length: Annotated[int, typer.Option(help="Early tokens kept exact.")] = DEFAULT.sink_length,
    sink_choice: Annotated[
        str, typer.Option(help=f"Which early tokens: {' or '.join(SINK_CHOICES)}.")
    ] = DEFAULT.sink_choice,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same codebook.")] = DEFAULT.seed,
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Make a codebook for a model from text and save it."""
    num_samples = DEFAULT.num_samples
    if fast:
        recipe = "query" if recipe == DEFAULT.recipe else recipe
        num_tokens, num_iterations = min(num_tokens, FAST_TOKENS), min(num_iterations, FAST_ITERATIONS)
        num_samples = min(num_samples, FAST_SAMPLES)
    config = CalibrationConfig(
        key_bits=bits(key_bits),
        value_bits=bits(value_bits),
        recipe=recipe,
        sequence_length=sequence_length,
        num_tokens=num_tokens,
        num_samples=num_samples,
        num_iterations=num_iterations,
        residual_length=residual_length,
        sink_length=sink_length,
        sink_choice=sink_choice,
        seed=seed,
        allocate=allocate,
        refine_steps=refine_steps,
        retrieval_fraction=retrieval_fraction,
        separator_fraction=separator_fraction,
    )
    _check_output(output_directory)
    texts = {name: load_text(name) for name in text or EXCERPTS[:1]}
    loaded, tokenizer = load_model(model, dtype, device)
    if Path(model).is_dir():
        # Otherwise the codebook would name a directory of this machine.
        loaded.config._name_or_path = Path(model).absolute().name
    codebook = make_codebook(loaded, tokenizer, texts, config)
    codebook.save_pretrained(output_directory)
    print_codebook(codebook)
    output.print(f"Saved to {output_directory}", markup=False, highlight=False)


def _check_output(directory: Path) -> None:
    """Raise for a directory that cannot be written, before there is something to lose."""
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"--output {directory}: {existing} is a file; give a directory.")
    if not os.access(existing, os.W_OK):
        raise ValueError(f"--output {directory}: {existing} cannot be written; give another directory.")
