# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer bench`: the kernels' own benchmarks, on the kernels that this process would use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from ..ops.kernels import kernel_candidates, load_kernels


OPERATORS = ("decode_attention", "quantize", "append")


def benchmarks_folder() -> Path:
    """Return the folder of the benchmark scripts, which come with the kernels' source.

    Raises:
        FileNotFoundError: if the package was installed without its source.
    """
    folder = Path(__file__).resolve().parents[2] / "hub_kernels" / "vecinfer-attention" / "benchmarks"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} does not exist: the benchmarks come with the kernels' source. Install vecinfer_hf from a "
            "checkout with `pip install --editable '.[dev]'`."
        )
    return folder


def bench(
    operator: Annotated[str, typer.Argument(help=f"One of {', '.join(OPERATORS)}.")] = "decode_attention",
    quick: Annotated[bool, typer.Option("--quick", help="decode_attention: only the 2-bit shapes.")] = False,
) -> None:
    """Time an operator on this GPU: against the copy bandwidth and torch's best bf16 attention, in the same run."""
    if operator not in OPERATORS:
        raise ValueError(f"There is no benchmark of {operator!r}; use one of {', '.join(OPERATORS)}.")
    folder = benchmarks_folder()
    if not torch.cuda.is_available():
        raise RuntimeError("The benchmarks time compiled kernels and need a CUDA device; there is none.")
    kernels = load_kernels()
    if kernels is None:
        tried = "; ".join(f"{candidate.source}: {candidate.reason}" for candidate in kernel_candidates())
        raise RuntimeError(f"No compiled kernels were found ({tried}). `make kernels` builds them.")
    command = [sys.executable, str(folder / f"benchmark_{operator}.py")]
    if quick and operator == "decode_attention":
        command.append("--quick")
    variant = Path(kernels.__file__).parent
    finished = subprocess.run(command, env={**os.environ, "VECINFER_KERNEL_PATH": str(variant)})
    if finished.returncode:
        raise RuntimeError(f"The benchmark of {operator} failed with exit code {finished.returncode}.")
