# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer inspect`: what is in a codebook."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..codebook.codebook import Codebook
from .console import output, print_json, print_table, size
from .options import AsJson, Revision, Subfolder, text_value


# What the entries of these lists have at least. A codebook may come from anybody: others are printed as they are.
QUALITY = {"text", "perplexity_ratio"}
TEXT = {"name", "tokens"}
# What is printed of the former, under which heading.
COLUMNS = {
    "text": "text",
    "windows": "windows",
    "window_length": "length",
    "perplexity_ratio": "ratio",
    "kl_divergence": "KL",
    "top1_agreement": "same token",
    "measured_with": "measured with",
}


def describe(codebook: Codebook) -> dict[str, Any]:
    """Return what `vecinfer inspect` shows, as plain JSON values."""
    errors = {error.layer: error for error in codebook.errors}
    layers = []
    for index, layer in codebook.layers.items():
        key_format, value_format = codebook.formats(index)
        error = errors.get(index)
        layers.append(
            {
                "layer": index,
                "key_format": key_format.name,
                "value_format": value_format.name,
                "key_bits": key_format.bits_per_element,
                "value_bits": value_format.bits_per_element,
                "key_transform": "matrix" if layer.key_transform.dim() == 3 else "scale",
                "key_error": error and error.key,
                "value_error": error and error.value,
                "nbytes": layer.nbytes,
            }
        )
    return {
        "model": codebook.identity.to_dict(),
        "bits_per_element": codebook.bits_per_element,
        "nbytes": codebook.nbytes,
        "calibration_config": codebook.config.to_dict(),
        "weights_fingerprint": codebook.weights_fingerprint,
        "provenance": {name: value for name, value in codebook.provenance.items() if name != "errors"},
        "metrics": codebook.metrics,
        "layers": layers,
    }


def print_codebook(codebook: Codebook) -> None:
    """Print a codebook as a table: bits, transform and relative error of every layer."""
    about = describe(codebook)

    def error(value):
        return "" if value is None else f"{value:.3f}"

    print_table(
        f"{codebook.identity.name or codebook.identity.model_type}: "
        f"{about['bits_per_element']:g} bits per element, {size(about['nbytes'])}",
        ("layer", "keys", "values", "bits", "transform", "key error", "value error", "size"),
        [
            (
                str(row["layer"]),
                row["key_format"],
                row["value_format"],
                f"{row['key_bits']:g} / {row['value_bits']:g}",
                row["key_transform"],
                error(row["key_error"]),
                error(row["value_error"]),
                size(row["nbytes"]),
            )
            for row in about["layers"]
        ],
    )
    shown = {name: getattr(codebook.config, name) for name in ("residual_length", "sink_length", "sink_choice")}
    shown |= codebook.config.to_diff_dict()
    for name, value in [*shown.items(), *about["provenance"].items(), *about["metrics"].items()]:
        if is_rows(value, QUALITY):
            columns = [column for column in COLUMNS if any(column in row for row in value)]
            cells = [[readable(row.get(column, "")) for column in columns] for row in value]
            print_table(f"{name} (perplexities: --json)", [COLUMNS[column] for column in columns], cells)
        elif is_rows(value, TEXT):
            texts = ", ".join(f"{entry['name']} ({readable(entry['tokens'])})" for entry in value)
            output.print(f"{name} (tokens): {texts}", highlight=False, markup=False)
        else:
            output.print(f"{name}: {value}", highlight=False, markup=False)


def is_rows(value: Any, names: set[str]) -> bool:
    """Return whether a value is a list of dictionaries that have these names."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(row, dict) and names <= set(row) for row in value)


def readable(value: Any) -> str:
    """Return a cell: whole numbers in groups of three digits, others with four decimals, small ones with two."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"


def inspect(
    codebook: Annotated[
        str,
        typer.Argument(help="Directory, shipped name or Hub repository.", parser=text_value),
    ],
    revision: Revision = None,
    subfolder: Subfolder = None,
    as_json: AsJson = False,
) -> None:
    """Show a codebook: bits, sizes, error per layer, where it came from."""
    loaded = Codebook.from_pretrained(codebook, revision=revision, subfolder=subfolder)
    if as_json:
        print_json(describe(loaded))
    else:
        print_codebook(loaded)
