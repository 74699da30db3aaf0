# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer codebooks list | show | remove`: the codebooks that `codebook="auto"` made on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..codebook.codebook import Codebook
from ..codebook.kept import KeptCodebook, find_kept, kept_codebooks, kept_root, remove_kept
from ..errors import CodebookError
from .console import output, print_json, print_table, size
from .inspect import describe, print_codebook, readable
from .options import AsJson, text_value


app = typer.Typer(help='List, show and remove the codebooks that codebook="auto" made here.', no_args_is_help=True)
Name = Annotated[
    str,
    typer.Argument(help="Name in the list, or the first digits of a fingerprint.", parser=text_value, metavar="NAME"),
]


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
