# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The options that several commands share. An option of this file means the same in every command.

Owns their names, their help texts, and the refusal of an option that has no effect with the others given.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..cache.online_codebook import ONLINE
from ..codebook.shipped import shipped_names
from ..config import OPS_BACKENDS, SINK_CHOICES, VecInferConfig
from ..errors import ConfigError
from ..integration.resolve import AUTO


def text_value(value: str) -> str:
    """Return an option's value as it was given; an empty one is refused."""
    if not value.strip():
        raise typer.BadParameter(f"{value!r} is empty; give a value or leave the option out.")
    return value


def path_value(value: str) -> Path:
    """Return an option's value as a path; an empty one is refused, because it would mean the current directory."""
    if "\0" in value:
        raise typer.BadParameter(f"{value!r} has a null character, which no path can have.")
    return Path(text_value(value)).expanduser()


def bits_value(value: str) -> float | str:
    """Return a bit width as the configs take it: a number, or a format name such as "d2b8"."""
    try:
        number = float(text_value(value))
    except ValueError:
        return value
    return int(number) if number.is_integer() else number


def finite_value(value: str) -> float:
    """Return an option's value as a finite number of at least 0."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise typer.BadParameter(f"{value!r} is not a finite number of 0 or more.")
    return number


def positive_value(value: str) -> float:
    """Return an option's value as a finite number above 0."""
    number = finite_value(value)
    if number == 0:
        raise typer.BadParameter(f"{value!r} is not above 0.")
    return number


def _codebook_names(incomplete: str) -> list[str]:
    """Return the names that the shell offers for a codebook, besides directories."""
    return [name for name in (AUTO, ONLINE, *shipped_names()) if name.startswith(incomplete)]


_BITS = "Bits per {} element: 4, 2, 1.5, 1.25, 1, or a format name such as d2b8."
_NAMED = "Chooses among the codebooks of auto and shapes one that is made."

Model = Annotated[str, typer.Argument(help="Hub id or directory of the model.", parser=text_value)]
OptionalModel = Annotated[
    str | None, typer.Argument(help="Hub id or directory of a model to examine.", parser=text_value)
]
CodebookName = Annotated[
    str,
    typer.Option(
        "--codebook",
        "-c",
        help="Codebook: a directory, a shipped name, a Hub repository, auto (find or make one) or online (fit one "
        "to the first prompt).",
        parser=text_value,
        metavar="NAME",
        autocompletion=_codebook_names,
    ),
]
CodebookDirectory = Annotated[Path, typer.Argument(help="Directory of a codebook.", parser=path_value)]
_OUTPUT = typer.Option("--output", "-o", help="Directory for the codebook.", parser=path_value, metavar="DIRECTORY")
Output = Annotated[Path, _OUTPUT]
OutputOrNone = Annotated[Path | None, _OUTPUT]
Revision = Annotated[
    str | None,
    typer.Option(
        help="Branch, tag or commit of the codebook's Hub repository.", parser=text_value, metavar="REVISION"
    ),
]
Subfolder = Annotated[
    str | None,
    typer.Option(
        help="Directory of the codebook inside the repository or directory.", parser=text_value, metavar="FOLDER"
    ),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        help="Hub owner from which codebook auto may download; repeatable.", parser=text_value, metavar="OWNER"
    ),
]
KeyBits = Annotated[
    str | None, typer.Option(help=f"{_BITS.format('key')} {_NAMED}", parser=bits_value, metavar="BITS")
]
ValueBits = Annotated[
    str | None, typer.Option(help=f"{_BITS.format('value')} {_NAMED}", parser=bits_value, metavar="BITS")
]
ResidualLength = Annotated[
    int | None, typer.Option(min=0, help="Recent tokens kept in full precision; default the codebook's.")
]
SinkLength = Annotated[
    int | None, typer.Option(min=0, help="Early tokens kept in full precision; default the codebook's.")
]
SinkChoice = Annotated[
    str | None,
    typer.Option(
        help=f"Which early tokens: {' or '.join(SINK_CHOICES)}; default the codebook's.",
        parser=text_value,
        metavar="CHOICE",
    ),
]
OpsBackend = Annotated[
    str, typer.Option(help=f"Operators: {', '.join(OPS_BACKENDS)}.", parser=text_value, metavar="BACKEND")
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16, float16 or auto (as the weights are stored); default float32 on a CPU, else auto.",
        parser=text_value,
        metavar="DTYPE",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, ...; default the GPU if there is one.", parser=text_value, metavar="DEVICE"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def cache_options(
    codebook: str,
    *,
    trust: list[str] | None = None,
    static: bool = False,
    ops_backend: str = AUTO,
    **given: Any,
) -> dict[str, Any]:
    """Return the options that were given, as `VecInferCache` and `cache_config` take them.

    Args:
        codebook: name of the codebook, which decides which of the options have an effect.
        trust: owners from which "auto" may download.
        static: whether the cache is allocated once.
        ops_backend: the operators.
        given: other fields of a VecInferConfig; None where not given.

    Raises:
        ConfigError: for an option that breaks its rule, or that has no effect with this codebook.
    """
    given |= {
        "trusted_owners": trust or None,
        "static": static or None,
        "ops_backend": None if ops_backend == AUTO else ops_backend,
    }
    options = {name: value for name, value in given.items() if value is not None}
    VecInferConfig(codebook, **options)
    if codebook != AUTO and trust:
        raise ConfigError(f"--trust has an effect only with --codebook {AUTO}, but --codebook is {codebook!r}.")
    for name in ("revision", "subfolder"):
        if codebook in (AUTO, ONLINE) and name in options:
            raise ConfigError(f"--{name} has no effect with --codebook {codebook}; name a codebook or leave it out.")
    return options


def check_output(directory: Path) -> None:
    """Raise ConfigError for an --output that cannot be written, before there is something to lose."""
    try:
        existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    except OSError as error:
        raise ConfigError(
            f"--output {directory} cannot be a directory ({error.strerror}); give another one."
        ) from None
    if not existing.is_dir():
        raise ConfigError(f"--output {directory}: {existing} is a file; give a directory.")
    if not os.access(existing, os.W_OK):
        raise ConfigError(f"--output {directory}: {existing} cannot be written; give another directory.")
