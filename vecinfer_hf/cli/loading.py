# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Loading what the user named: a model with its tokenizer, and the options several commands share."""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from rich.status import Status
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..assets import SMOLLM2_NAME, SPLIT_MODELS, smollm2_directory, split_model_directory
from .console import errors


DEMO_MODEL = "smollm2"

Model = Annotated[
    str,
    typer.Argument(help=f"Hub id or directory of the model, or one of {', '.join((DEMO_MODEL, *SPLIT_MODELS))}."),
]
CodebookName = Annotated[
    str, typer.Option("--codebook", "-c", help="Codebook: a directory, a shipped name or a Hub repository.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of the codebook's Hub repository.")]
ResidualLength = Annotated[int | None, typer.Option(min=0, help="Recent tokens kept exact; default the codebook's.")]
SinkLength = Annotated[int | None, typer.Option(min=0, help="Early tokens kept exact; default the codebook's.")]
OpsBackend = Annotated[str, typer.Option(help="auto, cuda or reference.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default float32 on a CPU, else auto.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default the GPU if there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def model_source(name: str) -> tuple[str, str | None]:
    """Return what `from_pretrained` takes for a model the user named, and the name of a model known by a short one."""
    if name == DEMO_MODEL:
        return str(smollm2_directory()), SMOLLM2_NAME
    if name in SPLIT_MODELS:
        return str(split_model_directory(name)), SPLIT_MODELS[name].name
    return name, None


def load_model(
    name: str, dtype: str | None = None, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, weights as they are stored unless `dtype` says otherwise.

    Raises:
        ValueError: for an unknown dtype or a device that does not exist.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dtype is None:
        dtype = "float32" if device == "cpu" else "auto"
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"--dtype is {dtype!r}; use float32, bfloat16, float16 or auto.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device is {device!r}, which cannot be used here: {error}") from error
    logging.disable_progress_bar()
    with Status(f"Loading {name}", console=errors):
        directory, known_name = model_source(name)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).to(device).eval()
    if known_name:
        # Otherwise what is made from it would name a directory of this machine.
        model.config._name_or_path = known_name
    return model, tokenizer


def cache_options(
    revision: str | None = None,
    residual_length: int | None = None,
    sink_length: int | None = None,
    ops_backend: str = "auto",
    sink_choice: str | None = None,
) -> dict[str, str | int]:
    """Return the options that were given, as `VecInferCache` and `cache_config` take them."""
    given = {
        "revision": revision,
        "residual_length": residual_length,
        "sink_length": sink_length,
        "sink_choice": sink_choice,
        "ops_backend": ops_backend if ops_backend != "auto" else None,
    }
    return {name: value for name, value in given.items() if value is not None}
