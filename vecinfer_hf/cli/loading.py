# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Loading what the user named: a model with its tokenizer, and the options several commands share."""

from __future__ import annotations

from typing import Annotated

import torch
import transformers
import typer
from rich.status import Status
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..version import __version__
from .console import errors


Model = Annotated[str, typer.Argument(help="Hub id or directory of the model.")]
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


def usable_device(name: str | None) -> torch.device:
    """Return the device a user named, by default the GPU if there is one.

    Raises:
        ValueError: if it cannot be used here.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device is {name!r}, which cannot be used here: {error}") from error


def model_dtype(name: str) -> torch.dtype:
    """Return the dtype of a name.

    Raises:
        ValueError: if it is none.
    """
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"--dtype is {name!r}; use float32, bfloat16, float16 or auto.")
    return found


def load_model(
    name: str, dtype: str | None = None, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, weights as they are stored unless `dtype` says otherwise.

    Raises:
        ValueError: for an unknown dtype or a device that does not exist.
    """
    place = usable_device(device)
    if dtype is None:
        dtype = "float32" if place.type == "cpu" else "auto"
    wanted = dtype if dtype == "auto" else model_dtype(dtype)
    logging.disable_progress_bar()
    with Status(f"Loading {name}", console=errors):
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=wanted).to(place).eval()
    return model, tokenizer


def machine(device: torch.device) -> dict[str, str]:
    """Return what figures are measured with: the device and the versions."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "vecinfer_hf": __version__,
    }


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
