# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer plan`: the longest context and the largest batch that fit a GPU, default cache against VecInfer."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from typing import Annotated

import torch
import typer

from ..cache.planner import stock_plan, vecinfer_plan, weight_bytes
from ..calibration_config import CalibrationConfig
from ..config import LONGEST_WINDOW
from ..errors import ConfigError, UnsupportedModelError
from ..model_info import full_attention_layers, unsupported_reason
from .console import print_json, print_table, size
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
    gpu_memory: Annotated[str, typer.Option(help="Memory of the GPU, as in 24GB.")] = "24GB",
    context: Annotated[int, typer.Option(min=1, help="Tokens per sequence for the largest batch.")] = 32768,
    reserve: Annotated[
        str, typer.Option(help="Kept free for activations, the CUDA context and fragmentation.")
    ] = "3GB",
    residual_length: Annotated[
        int, typer.Option(min=0, max=LONGEST_WINDOW, help="Recent tokens kept in full precision.")
    ] = DEFAULT.residual_length,
    sink_length: Annotated[
        int, typer.Option(min=0, max=LONGEST_WINDOW, help="Early tokens kept in full precision.")
    ] = DEFAULT.sink_length,
    as_json: AsJson = False,
) -> None:
    """Print what fits into a GPU: weights in bfloat16, default cache against VecInfer at 4, 2 and 1 bits.

    Only the model's config is read. The numbers are arithmetic on the storage formats, which the tests compare with
    allocated caches; how much `reserve` a prompt needs depends on the model and on how it is prefilled.
    """
    memory, kept_free = parse_memory(gpu_memory), parse_memory(reserve)
    config = load_config(model)
    reason = unsupported_reason(config)
    if reason:
        raise UnsupportedModelError(f"No VecInfer cache for {model}: {reason}.")
    dtype = torch.bfloat16
    weights = weight_bytes(config, dtype)
    budget = memory - weights - kept_free
    if budget <= 0:
        raise ConfigError(
            f"The weights ({size(weights)}) and the reserve ({reserve}) leave nothing of {gpu_memory} for a cache."
        )
    layers = len(full_attention_layers(config))
    plans = [stock_plan(config, dtype)]
    for bits in (4, 2, 1):
        formats = CalibrationConfig(key_bits=bits, value_bits=bits).formats(layers)
        plans.append(vecinfer_plan(config, formats, residual_length, sink_length, dtype))
    rows = [
        {
            **asdict(entry),
            "longest_context": entry.longest_context(budget),
            "largest_batch": entry.largest_batch(budget, context),
        }
        for entry in plans
    ]
    if as_json:
        print_json({"weight_bytes": weights, "budget_bytes": budget, "context": context, "plans": rows})
        return
    print_table(
        f"{model} on {gpu_memory}: weights {size(weights)} (bfloat16), reserve {reserve}, cache {size(budget)}",
        ("cache", "bytes per token", "longest context", f"largest batch at {context:,}"),
        [
            (row["name"], f"{row['bytes_per_token']:,.0f}", f"{row['longest_context']:,}", f"{row['largest_batch']:,}")
            for row in rows
        ],
    )
