# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer plan`: the longest context and the largest batch that fit a GPU, default cache against VecInfer."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from typing import Annotated

import typer

from ..cache.planner import stock_plan, vecinfer_plan
from ..cache.weights import checkpoint_bits, checkpoint_dtype, weight_bytes
from ..calibration_config import CalibrationConfig
from ..config import LONGEST_WINDOW
from ..errors import ConfigError, UnsupportedModelError
from ..model_info import full_attention_layers, text_config, unsupported_reason
from .console import output, print_json, print_table, size
from .loading import load_config
from .options import AsJson, Model


DEFAULT = CalibrationConfig()
_UNITS = {"gb": 1000**3, "gib": 1024**3, "mb": 1000**2, "mib": 1024**2}


def parse_memory(text: str) -> int:
    """Return the bytes that "24GB", "80 GiB" or "900MB" stand for.

    Raises:
        ValueError: for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    if not match or match[2].lower() not in _UNITS or not math.isfinite(float(match[1])):
        raise ConfigError(f"{text!r} is no amount of memory; write a number and one of GB, GiB, MB, MiB, as in 24GB.")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def plan(
    model: Model,
    gpu_memory: Annotated[str, typer.Option(help="Memory of each GPU, as in 24GB.")] = "24GB",
    gpus: Annotated[int, typer.Option(min=1, help="GPUs over which the model is spread.")] = 1,
    weights_bits: Annotated[
        float | None,
        typer.Option(help="Bits per element of quantized weights, scales included; default as the checkpoint has."),
    ] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens per sequence for the largest batch.")] = 32768,
    reserve: Annotated[
        str, typer.Option(help="Kept free on each GPU for activations, the CUDA context and fragmentation.")
    ] = "3GB",
    residual_length: Annotated[
        int, typer.Option(min=0, max=LONGEST_WINDOW, help="Recent tokens kept in full precision.")
    ] = DEFAULT.residual_length,
    sink_length: Annotated[
        int, typer.Option(min=0, max=LONGEST_WINDOW, help="Early tokens kept in full precision.")
    ] = DEFAULT.sink_length,
    as_json: AsJson = False,
) -> None:
    """Print what fits into GPUs: weights as the checkpoint has them, default cache against 4, 2 and 1 bits.

    Only the model's config is read. The numbers are arithmetic on the storage formats, which the tests compare with
    allocated caches; how much `reserve` a prompt needs depends on the model and on how it is prefilled. Codebooks are
    counted with full matrices, as calibration makes them by default.
    """
    memory, kept_free = parse_memory(gpu_memory), parse_memory(reserve)
    if weights_bits is not None and not 0 < weights_bits <= 32:
        raise ConfigError(f"--weights-bits is {weights_bits}; give more than 0 and at most 32.")
    config = load_config(model)
    reason = unsupported_reason(config)
    if reason:
        raise UnsupportedModelError(f"No VecInfer cache for {model}: {reason}.")
    dtype = checkpoint_dtype(config)
    bits = checkpoint_bits(config) if weights_bits is None else weights_bits
    weights = weight_bytes(config, dtype, bits)
    budget = gpus * (memory - kept_free) - weights
    where = gpu_memory if gpus == 1 else f"{gpus} x {gpu_memory}"
    if budget <= 0:
        raise ConfigError(
            f"The weights ({size(weights)}) and the reserve ({reserve}) leave nothing of {where} for a cache."
        )
    layers = len(full_attention_layers(config))
    if not layers:
        raise UnsupportedModelError(f"No VecInfer cache for {model}: none of its layers grows with the text.")
    plans = [stock_plan(config, dtype)]
    for cache_bits in (4, 2, 1):
        formats = CalibrationConfig(key_bits=cache_bits, value_bits=cache_bits).formats(layers)
        plans.append(vecinfer_plan(config, formats, residual_length, sink_length, dtype))
    limit = getattr(text_config(config), "max_position_embeddings", None)
    rows = [
        {
            **asdict(entry),
            "tokens": entry.longest_context(budget),
            "longest_context": min(entry.longest_context(budget), limit or math.inf),
            "largest_batch": entry.largest_batch(budget, context),
        }
        for entry in plans
    ]
    stored = f"{bits:g} bits" if bits else str(dtype).removeprefix("torch.")
    if as_json:
        figures = {"weight_bytes": weights, "weights": stored, "budget_bytes": budget, "context": context}
        print_json({**figures, "position_limit": limit, "plans": rows})
        return
    print_table(
        f"{model} on {where}: weights {size(weights)} ({stored}), reserve {reserve} each, cache {size(budget)}",
        ("cache", "bytes per token", "tokens that fit", f"largest batch at {context:,}"),
        [
            (row["name"], f"{row['bytes_per_token']:,.0f}", f"{row['tokens']:,}", f"{row['largest_batch']:,}")
            for row in rows
        ],
    )
    if limit:
        output.print(f"The model's positions end at {limit:,} tokens of one text.", highlight=False)
