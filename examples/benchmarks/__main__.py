# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m examples.benchmarks`: a whole model with VecInfer's cache against transformers' own caches.

`vecinfer bench` measures less, on any model, in a minute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import PreTrainedConfig

from vecinfer_hf.cli.app import run
from vecinfer_hf.cli.bench import numbers
from vecinfer_hf.cli.console import errors
from vecinfer_hf.cli.loading import machine
from vecinfer_hf.cli.options import Device, bits_value
from vecinfer_hf.evaluation.random_models import LLAMA_8B, random_model, shape_config
from vecinfer_hf.model_info import full_attention_layers, text_config

from .end_to_end import compare
from .measure import Row
from .report import markdown, plot, read_json, write_json


app = typer.Typer(name="benchmarks", add_completion=False, pretty_exceptions_enable=False)


@app.command()
def benchmarks(
    shape: Annotated[
        str, typer.Option(help=f"{LLAMA_8B}, or a Hub id or directory whose config to use; weights are random.")
    ] = LLAMA_8B,
    contexts: Annotated[str, typer.Option(help="Tokens in the cache.")] = "4096,8192,32768,131072,196608",
    static_contexts: Annotated[
        str | None, typer.Option(help="For transformers' static cache, if not all of these.")
    ] = None,
    long_contexts: Annotated[str, typer.Option(help="For the first bit width only.")] = "524288,1048576",
    prompts: Annotated[str, typer.Option(help="Prompt lengths to read.")] = "8192,131072",
    bits: Annotated[str, typer.Option(help="Bits per element.")] = "2,4,1",
    batch_context: Annotated[int, typer.Option(help="Tokens each in the largest batch; 0: none.")] = 32768,
    json_file: Annotated[Path | None, typer.Option("--json-file", help="Keep the numbers here.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw time over context here.")] = None,
    kept: Annotated[Path | None, typer.Option("--show", help="A kept file, instead of measuring.")] = None,
    device: Device = None,
) -> None:
    """Time a whole model with random weights, at contexts of up to a million tokens, and print Markdown."""
    if kept is not None:
        show(*read_json(kept), plot_file)
        return
    if device is None and not torch.cuda.is_available():
        raise ValueError(
            f"There is no CUDA device, and the shape of {shape} is slow on a CPU and may not fit its memory; "
            "--device cpu insists (with a small --shape)."
        )
    place = torch.device(device or "cuda")
    cuda = place.type == "cuda"
    config = shape_config(shape)
    check_layers(config, shape)
    dtype = torch.bfloat16 if cuda else torch.float32
    about = {
        "shape": shape,
        "dtype": str(dtype).removeprefix("torch."),
        "cuda": torch.version.cuda if cuda else None,
        **machine(place),
    }
    rows = []
    for row in compare(
        random_model(config, dtype, place),
        contexts=numbers(contexts),
        static_contexts=numbers(contexts if static_contexts is None else static_contexts),
        bits=[bits_value(part) for part in bits.split(",")],
        long_contexts=numbers(long_contexts),
        prefill_contexts=numbers(prompts),
        batch_context=batch_context or None,
        memory=torch.cuda.get_device_properties(place).total_memory if cuda else 8 * 1000**3,
        progress=lambda text: errors.print(f"... {text}", highlight=False),
    ):
        rows.append(row)
        if json_file is not None:
            write_json(rows, about, json_file)
    show(rows, about, plot_file)


def check_layers(config: PreTrainedConfig, name: str) -> None:
    """Raise ValueError unless every layer has full attention, which is what `fill_randomly` fills."""
    full, layers = len(full_attention_layers(config)), text_config(config).num_hidden_layers
    if full != layers:
        raise ValueError(
            f"{name} has full attention in {full} of {layers} layers; this benchmark fills caches of models with full "
            "attention everywhere. Give the --shape of such a model."
        )


def show(rows: list[Row], about: dict[str, str], plot_file: Path | None) -> None:
    """Print rows as Markdown and draw them."""
    title = f"{about['shape']}, random weights, {about['dtype']}; {about['device']}, torch {about['torch']}"
    print(markdown(rows, title))
    if plot_file is not None:
        plot(rows, title, plot_file)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 on success, 2 on bad input."""
    run(app, arguments)


if __name__ == "__main__":
    main()
