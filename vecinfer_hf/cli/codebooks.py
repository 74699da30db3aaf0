# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer codebooks make | list | show | remove`: codebooks as `codebook="auto"` makes and keeps them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..calibration.auto_codebook import make_codebook
from ..calibration.auto_plan import BUDGET, BUDGET_CPU
from ..calibration.text import load_text
from ..codebook.codebook import Codebook
from ..codebook.kept import (
    KeptCodebook,
    find_kept,
    keep,
    kept_codebook,
    kept_codebooks,
    kept_root,
    locked,
    remove_kept,
)
from ..config import VecInferConfig
from ..errors import CodebookError, UnsupportedModelError
from ..integration.make import bits_name
from ..model_info import unsupported_reason
from .console import output, print_json, print_table, size
from .inspect import describe, print_codebook, readable
from .loading import load_config, load_tokenizer, load_weights, usable_device, wanted_dtype
from .options import AsJson, Device, Dtype, KeyBits, Model, OutputOrNone, ValueBits, check_output, text_value


app = typer.Typer(help='Make, list, show and remove codebooks as codebook="auto" makes them.', no_args_is_help=True)
Name = Annotated[
    str,
    typer.Argument(help="Name in the list, or the first digits of a fingerprint.", parser=text_value, metavar="NAME"),
]


@app.command()
def make(
    model: Model,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Text file, or - for standard input; repeatable; default what the model writes, and an excerpt.",
            parser=text_value,
            metavar="TEXT",
        ),
    ] = None,
    key_bits: KeyBits = None,
    value_bits: ValueBits = None,
    budget: Annotated[
        float | None,
        typer.Option(help=f"Seconds it may take, roughly; default {BUDGET:g} on a GPU, {BUDGET_CPU:g} on a CPU."),
    ] = None,
    output_directory: OutputOrNone = None,
    dtype: Dtype = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Make a codebook within a time and the free memory; kept for codebook auto, or saved with --output."""
    options = VecInferConfig(key_bits=key_bits, value_bits=value_bits, budget=budget)
    if output_directory is not None:
        check_output(output_directory)
    texts = {name: load_text(name) for name in text} if text else None
    wanted_dtype(dtype, usable_device(device))
    reason = unsupported_reason(load_config(model))
    if reason:
        raise UnsupportedModelError(f"No codebook for {model}: {reason}.")
    tokenizer = load_tokenizer(model)
    loaded = load_weights(model, dtype, device)
    codebook = make_codebook(loaded, tokenizer, texts, key_bits=key_bits, value_bits=value_bits, budget=budget)
    directory = output_directory
    if directory is None:
        kept = kept_codebook(str(codebook.weights_fingerprint), bits_name(options))
        with locked(kept):
            keep(kept, codebook)
        directory = kept.directory
    else:
        codebook.save_pretrained(directory)
    if as_json:
        print_json({**describe(codebook), "directory": str(directory)})
    else:
        print_codebook(codebook)
        output.print(f"Saved to {directory}", markup=False, highlight=False, soft_wrap=True)


@app.command("list")
def list_codebooks(as_json: AsJson = False) -> None:
    """List what was made on this machine, with its measured quality."""
    rows = [_row(kept) for kept in kept_codebooks()]
    if as_json:
        print_json({"directory": str(kept_root()), "codebooks": rows})
        return
    if not rows:
        output.print(f"None in {kept_root()}.", markup=False, highlight=False, soft_wrap=True)
        return
    names = ("name", "model", "bits", "KL", "ratio", "made", "size")
    cells = [[*(readable(row.get(name) if row.get(name) is not None else "") for name in names[:-1])] for row in rows]
    print_table(str(kept_root()), names, [[*cell, size(row["nbytes"])] for cell, row in zip(cells, rows, strict=True)])


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show one: bits, errors per layer, how it was made, what it costs on held-back text."""
    kept = find_kept(name)
    codebook = Codebook.from_pretrained(kept.directory)
    if as_json:
        print_json({**describe(codebook), "directory": str(kept.directory)})
    else:
        print_codebook(codebook)
        output.print(f"directory: {kept.directory}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def remove(name: Name, as_json: AsJson = False) -> None:
    """Remove one; the next use of its model makes it again."""
    kept = find_kept(name)
    remove_kept(kept)
    if as_json:
        print_json({"removed": str(kept.directory)})
    else:
        output.print(f"Removed {kept.directory}", markup=False, highlight=False, soft_wrap=True)


def _row(kept: KeptCodebook) -> dict[str, Any]:
    """Return what the list says of a codebook; what is damaged is listed with the reason."""
    row: dict[str, Any] = {"name": kept.name, "fingerprint": kept.fingerprint, "nbytes": kept.nbytes}
    try:
        codebook = Codebook.from_pretrained(kept.directory)
    except CodebookError as error:
        return {**row, "model": f"cannot be read: {error}"}
    quality = codebook.metrics.get("held_back")
    quality = quality if isinstance(quality, dict) else {}
    return {
        **row,
        "model": codebook.identity.name or codebook.identity.model_type,
        "bits": codebook.bits_per_element,
        "KL": quality.get("kl_divergence"),
        "ratio": quality.get("perplexity_ratio"),
        "made": codebook.provenance.get("date"),
    }
