# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer bench`: time and memory of a model's shape on this machine, with the stock cache and with codes."""

from __future__ import annotations

from typing import Annotated

import typer

from ..evaluation.random_models import LLAMA_8B, random_codebook, random_model, shape_config
from ..evaluation.speed import SpeedResult, compare_speed
from .calibrate import bits as parse_bits
from .console import errors, print_json, print_table, size
from .loading import AsJson, Device, machine, model_dtype, usable_device


def bench(
    shape: Annotated[
        str, typer.Argument(help=f"Whose shape: Hub id or directory of a model, or {LLAMA_8B}; weights are random.")
    ] = LLAMA_8B,
    contexts: Annotated[str, typer.Option(help="Tokens of the prompts, with commas.")] = "4096,32768",
    bits: Annotated[str, typer.Option(help="Bits per element of the codes: 4, 2, 1.5, 1.25 or 1.")] = "2",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows.")] = 1,
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate; the first 8 are not timed.")] = 40,
    dtype: Annotated[str | None, typer.Option(help="Default float32 on a CPU, else bfloat16.")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Time `generate` with random weights and prompts: until the first token, then per token; and count the memory.

    The stock cache and the VecInfer cache, each growing and static (compiled on a GPU).
    """
    lengths = numbers(contexts)
    place = usable_device(device)
    if device is None and place.type == "cpu" and shape == LLAMA_8B:
        raise ValueError(
            f"There is no CUDA device, and {LLAMA_8B} takes 32 GB of memory and minutes per prompt on a CPU; name a "
            "smaller model, or insist with --device cpu."
        )
    config = shape_config(shape)
    codebook = random_codebook(config, parse_bits(bits))
    model = random_model(config, model_dtype(dtype or ("float32" if place.type == "cpu" else "bfloat16")), place)
    rows = list(
        compare_speed(
            model,
            codebook,
            lengths,
            batch_size=batch_size,
            new_tokens=new_tokens,
            progress=lambda text: errors.print(f"... {text}", highlight=False),
        )
    )
    about = {"shape": shape, "bits": bits, "dtype": str(model.dtype).removeprefix("torch."), **machine(place)}
    if as_json:
        print_json({**about, "rows": [row.to_dict() for row in rows]})
    else:
        print_speed(f"{shape}, random weights, {about['dtype']}, {bits} bits; {about['device']}", rows)


def print_speed(title: str, rows: list[SpeedResult]) -> None:
    """Print one line for each cache and length of the prompt."""
    print_table(
        title,
        ("cache", "tokens", "first token, s", "ms per token", "tokens/s", "cache", "peak"),
        [
            (row.cache, f"{row.context:,}", row.problem, "", "", "", "")
            if row.problem
            else (
                row.cache,
                f"{row.context:,}",
                f"{row.prompt_seconds:.2f}",
                f"{1e3 * row.token_seconds:.2f}",
                f"{row.batch_size / row.token_seconds:,.1f}",
                size(row.cache_nbytes),
                size(row.peak_nbytes) if row.peak_nbytes else "",
            )
            for row in rows
        ],
    )


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
