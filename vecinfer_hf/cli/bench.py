# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer bench`: time and memory of a model's shape on this machine, with the default cache and with codes."""

from __future__ import annotations

from typing import Annotated

import typer
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from ..codebook.codebook import Codebook
from ..config import check_bits
from ..errors import ConfigError, UnsupportedCallError
from ..evaluation.random_models import LLAMA_8B, random_codebook, random_model, shape_config
from ..evaluation.serving import LARGE, SMALL, measure_serving
from ..evaluation.speed import SpeedResult, compare_speed
from ..integration.continuous_batching import TESTED, why_unsupported
from .console import errors, print_json, print_table, size
from .loading import machine, model_dtype, usable_device
from .options import AsJson, Device, bits_value, finite_value, text_value


def bench(
    shape: Annotated[
        str,
        typer.Argument(
            help=f"Hub id or directory of the model whose shape is taken, or {LLAMA_8B}; weights are random.",
            parser=text_value,
        ),
    ] = LLAMA_8B,
    contexts: Annotated[str, typer.Option(help="Tokens of the prompts, separated by commas.")] = "4096,32768",
    bits: Annotated[
        str,
        typer.Option(
            help="Bits per key and value element: 4, 2, 1.5, 1.25, 1, or a format name such as d2b8.",
            parser=bits_value,
            metavar="BITS",
        ),
    ] = "2",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows.")] = 1,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate; the first 8 are not timed.")] = 40,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16 or float16; default float32 on a CPU, else bfloat16.",
            parser=text_value,
            metavar="DTYPE",
        ),
    ] = None,
    serving: Annotated[
        bool, typer.Option("--serving", help="Measure continuous batching instead: room, steps, prompts, workloads.")
    ] = False,
    memory: Annotated[
        float, typer.Option(help="With --serving on a GPU: share of its free memory for a cache.", parser=finite_value)
    ] = 0.8,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Time `generate` with random weights and prompts: until the first token, then per token; and count the memory.

    The default cache and the VecInfer cache, each growing and static (compiled on a GPU). Exit code 1 if nothing could
    be measured. --serving measures many requests at once in transformers' continuous batching, with both caches.
    """
    lengths = numbers(contexts)
    if not lengths:
        raise ConfigError(f"--contexts is {contexts!r}; give at least one length.")
    check_bits("--bits", bits)
    place = usable_device(device)
    if device is None and place.type == "cpu" and shape == LLAMA_8B:
        raise ValueError(
            f"There is no CUDA device, and {LLAMA_8B} takes 32 GB of memory and minutes per prompt on a CPU; name a "
            "smaller model, or insist with --device cpu."
        )
    wanted = model_dtype(dtype or ("float32" if place.type == "cpu" else "bfloat16"))
    config = shape_config(shape)
    codebook = random_codebook(config, bits)
    model = random_model(config, wanted, place)
    if serving:
        _serving(shape, bits, model, codebook, memory, as_json)
        return
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
    about = {"shape": shape, "bits": str(bits), "dtype": str(model.dtype).removeprefix("torch."), **machine(place)}
    if as_json:
        print_json({**about, "rows": [row.to_dict() for row in rows]})
    else:
        print_speed(f"{shape}, random weights, {about['dtype']}, {bits} bits; {about['device']}", rows)
    if all(row.problem for row in rows):
        raise typer.Exit(1)


def _serving(shape: str, bits: str, model, codebook: Codebook, memory: float, as_json: bool) -> None:
    """Measure continuous batching; see `bench`."""
    reason = why_unsupported()
    if reason is not None:
        raise UnsupportedCallError(f"{reason}. Install transformers {TESTED} for --serving.")
    on_gpu = model.device.type == "cuda"
    installed = is_flash_attn_2_available() or is_flash_attn_3_available()
    options = {"auto_switch_to_flash": installed}
    if on_gpu:
        options |= {"max_memory_percent": memory, "max_batch_tokens": 8192}
    else:
        options |= {"num_blocks": 100, "max_batch_tokens": 512, "max_requests_per_batch": 16}
    rows = list(
        measure_serving(
            model,
            codebook,
            LARGE if on_gpu else SMALL,
            options,
            progress=lambda text: errors.print(f"... {text}", highlight=False),
        )
    )
    about = {
        "shape": shape,
        "bits": str(bits),
        "dtype": str(model.dtype).removeprefix("torch."),
        **machine(model.device),
    }
    about["default_attention"] = "flash" if installed else "sdpa"
    if as_json:
        print_json({**about, "rows": [row.to_dict() for row in rows]})
    else:
        cells = [(row.what, row.shape, row.cache, row.problem or _words(row.values)) for row in rows]
        title = f"{shape}, random weights, {about['dtype']}, {bits} bits; {about['device']}"
        print_table(title, ("what", "shape", "cache", "measured"), cells)
    if all(row.problem for row in rows):
        raise typer.Exit(1)


def _words(values: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:,.4g}" for name, value in values.items())


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
