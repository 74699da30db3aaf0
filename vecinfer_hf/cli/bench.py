# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer bench`: the kernels' own benchmarks and that of a whole model, on what this process would use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer

from ..benchmark.end_to_end import compare
from ..benchmark.measure import Row
from ..benchmark.models import LLAMA_8B, random_model, shape_config
from ..benchmark.report import markdown, plot, read_json, write_json
from ..ops.kernel_loader import kernel_candidates, load_kernels
from .calibrate import bits as parse_bits
from .console import errors
from .loading import Device


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
    end_to_end: Annotated[
        bool, typer.Option("--end-to-end", help="Time a whole model instead, against transformers' own caches.")
    ] = False,
    shape: Annotated[
        str, typer.Option(help=f"End to end: {LLAMA_8B}, or whose config to use; weights are random.")
    ] = LLAMA_8B,
    contexts: Annotated[str, typer.Option(help="End to end: tokens in the cache.")] = "4096,8192,32768,131072,196608",
    static_contexts: Annotated[
        str | None, typer.Option(help="End to end: for transformers' static cache, if not all of these.")
    ] = None,
    long_contexts: Annotated[str, typer.Option(help="End to end: for the first bit width only.")] = "524288,1048576",
    prompts: Annotated[str, typer.Option(help="End to end: prompt lengths to read.")] = "8192,131072",
    bits: Annotated[str, typer.Option(help="End to end: bits per element.")] = "2,4,1",
    batch_context: Annotated[int, typer.Option(help="End to end: tokens each in the largest batch; 0: none.")] = 32768,
    json_file: Annotated[Path | None, typer.Option("--json-file", help="End to end: keep the numbers here.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="End to end: draw time over context here.")] = None,
    kept: Annotated[Path | None, typer.Option("--show", help="End to end: a kept file, instead of measuring.")] = None,
    device: Device = None,
) -> None:
    """Time an operator, or with --end-to-end a whole model, against what torch and transformers offer, in one run."""
    if operator not in OPERATORS:
        raise ValueError(f"There is no benchmark of {operator!r}; use one of {', '.join(OPERATORS)}.")
    if kept is not None:
        show(*read_json(kept), plot_file)
    elif end_to_end:
        settings = {
            "contexts": numbers(contexts),
            "static_contexts": numbers(contexts if static_contexts is None else static_contexts),
            "bits": [parse_bits(part) for part in bits.split(",")],
            "long_contexts": numbers(long_contexts),
            "prefill_contexts": numbers(prompts),
            "batch_context": batch_context or None,
        }
        run_end_to_end(shape, settings, json_file, plot_file, device)
    else:
        run_operator(operator, quick)


def numbers(text: str) -> list[int]:
    """Return the whole numbers of a list such as "4096,8192"; an empty text is an empty list.

    Raises:
        ValueError: for anything else.
    """
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"{text!r} is no list of lengths; write whole numbers with commas: 4096,8192.") from None
    if any(number < 1 for number in found):
        raise ValueError(f"{text!r} holds a length below 1; a cache has at least one token.")
    return found


def run_end_to_end(
    shape: str, settings: dict[str, Any], json_file: Path | None, plot_file: Path | None, device: str | None
) -> None:
    """Measure, print as Markdown, and keep the numbers after every row."""
    if device is None and not torch.cuda.is_available():
        raise RuntimeError(
            f"There is no CUDA device, and the shape of {shape} is slow on a CPU and may not fit its memory; "
            "--device cpu insists (with a small --shape)."
        )
    place = torch.device(device or "cuda")
    cuda = place.type == "cuda"
    config = shape_config(shape)
    dtype = torch.bfloat16 if cuda else torch.float32
    about = {
        "shape": shape,
        "dtype": str(dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(place) if cuda else "cpu",
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "transformers": transformers.__version__,
    }
    memory = torch.cuda.get_device_properties(place).total_memory if cuda else 8 * 1000**3
    model = random_model(config, dtype, place)
    rows = []
    for row in compare(
        model, **settings, memory=memory, progress=lambda text: errors.print(f"... {text}", highlight=False)
    ):
        rows.append(row)
        if json_file is not None:
            write_json(rows, about, json_file)
    show(rows, about, plot_file)


def show(rows: list[Row], about: dict[str, str], plot_file: Path | None) -> None:
    """Print rows as Markdown and draw them."""
    title = f"{about['shape']}, random weights, {about['dtype']}; {about['device']}, torch {about['torch']}"
    print(markdown(rows, title))
    if plot_file is not None:
        plot(rows, title, plot_file)


def run_operator(operator: str, quick: bool) -> None:
    """Run the benchmark of one operator in a process of its own."""
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
