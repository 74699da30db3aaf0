# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer calibrate`: make a codebook for a model from text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..calibration import calibrate as make_codebook
from ..calibration.retrieval_text import MIN_LENGTH
from ..calibration.text import EXCERPTS, load_text
from ..calibration_config import RECIPES, CalibrationConfig
from ..config import SINK_CHOICES
from ..errors import ConfigError, UnsupportedModelError
from ..model_info import unsupported_reason
from .console import output, print_json
from .inspect import describe, print_codebook
from .loading import load_config, load_tokenizer, load_weights, usable_device, wanted_dtype
from .options import AsJson, Device, Dtype, Model, Output, bits_value, check_output, text_value


DEFAULT = CalibrationConfig()
FAST = {"recipe": "query", "num_tokens": 16384, "num_samples": 4096, "num_iterations": 8}
"""What --fast uses for the options that are not given."""


def calibrate(
    model: Model,
    output_directory: Output,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Text file, - for standard input, or an excerpt of the package ({', '.join(EXCERPTS)}); "
            f"repeatable; default {EXCERPTS[0]}.",
            parser=text_value,
            metavar="TEXT",
        ),
    ] = None,
    key_bits: Annotated[
        str | None,
        typer.Option(
            help="Bits per key element: 4, 2, 1.5, 1.25, 1, or a format name such as d2b8; "
            f"default {DEFAULT.key_bits}.",
            parser=bits_value,
            metavar="BITS",
        ),
    ] = None,
    value_bits: Annotated[
        str | None,
        typer.Option(
            help=f"Bits per value element, likewise; default {DEFAULT.value_bits}.", parser=bits_value, metavar="BITS"
        ),
    ] = None,
    allocate: Annotated[
        float | None,
        typer.Option(help="Mean bits to distribute over layers, keys and values by sensitivity, 1 to 4 (slow)."),
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
    recipe: Annotated[
        str | None, typer.Option(help=f"{', '.join(RECIPES)}; all but the first read no gradients.")
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help=f"Recipe {FAST['recipe']}, {FAST['num_tokens']} tokens and {FAST['num_iterations']} iterations, "
            "where these are not given.",
        ),
    ] = False,
    sequence_length: Annotated[
        int, typer.Option(help="Tokens per window; cover the positions that will be used.")
    ] = DEFAULT.sequence_length,
    num_tokens: Annotated[
        int | None,
        typer.Option(help=f"Tokens of text to read, at most, but one window at least; default {DEFAULT.num_tokens}."),
    ] = None,
    num_iterations: Annotated[
        int | None, typer.Option(help=f"Iterations of k-means; default {DEFAULT.num_iterations}.")
    ] = None,
    residual_length: Annotated[
        int, typer.Option(min=0, help="Recent tokens kept in full precision.")
    ] = DEFAULT.residual_length,
    sink_length: Annotated[
        int, typer.Option(min=0, help="Early tokens kept in full precision.")
    ] = DEFAULT.sink_length,
    sink_choice: Annotated[
        str, typer.Option(help=f"Which early tokens: {' or '.join(SINK_CHOICES)}.")
    ] = DEFAULT.sink_choice,
    seed: Annotated[
        int, typer.Option(help="Seed; results repeat on the same device and library versions.")
    ] = DEFAULT.seed,
    dtype: Dtype = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Make a codebook for a model from text and save it."""
    if allocate is not None and not (key_bits is None and value_bits is None):
        raise ConfigError(
            "--allocate distributes the bits itself, so --key-bits and --value-bits have no effect; leave them out."
        )
    given = {
        "key_bits": key_bits,
        "value_bits": value_bits,
        "recipe": recipe,
        "num_tokens": num_tokens,
        "num_iterations": num_iterations,
    }
    config = CalibrationConfig(
        **{**(FAST if fast else {}), **{name: value for name, value in given.items() if value is not None}},
        sequence_length=sequence_length,
        residual_length=residual_length,
        sink_length=sink_length,
        sink_choice=sink_choice,
        seed=seed,
        allocate=allocate,
        refine_steps=refine_steps,
        retrieval_fraction=retrieval_fraction,
        separator_fraction=separator_fraction,
    )
    _check_retrieval(config)
    check_output(output_directory)
    texts = {name: load_text(name) for name in text or EXCERPTS[:1]}
    wanted_dtype(dtype, usable_device(device))
    reason = unsupported_reason(load_config(model))
    if reason:
        raise UnsupportedModelError(f"No codebook for {model}: {reason}.")
    tokenizer = load_tokenizer(model)
    loaded = load_weights(model, dtype, device)
    if Path(model).is_dir():
        # Otherwise the codebook would name a directory of this machine.
        loaded.config._name_or_path = Path(model).absolute().name
    codebook = make_codebook(loaded, tokenizer, texts, config)
    codebook.save_pretrained(output_directory)
    if as_json:
        print_json({**describe(codebook), "directory": str(output_directory)})
    else:
        print_codebook(codebook)
        output.print(f"Saved to {output_directory}", markup=False, highlight=False, soft_wrap=True)


def _check_retrieval(config: CalibrationConfig) -> None:
    """Raise ConfigError for a fraction of windows with facts that this calibration would not read."""
    if not config.retrieval_fraction:
        return
    name = f"--retrieval-fraction {config.retrieval_fraction}"
    if config.recipe != DEFAULT.recipe and config.allocate is None and not config.refine_steps:
        raise ConfigError(
            f"{name} has no effect: the recipe {config.recipe} without --allocate and --refine-steps reads no "
            f"gradients. Leave it out, or use --recipe {DEFAULT.recipe}."
        )
    if config.sequence_length < MIN_LENGTH:
        raise ConfigError(
            f"{name} has no effect: windows of {config.sequence_length} tokens are too short for facts. Leave it out, "
            f"or use --sequence-length {MIN_LENGTH} or more."
        )
