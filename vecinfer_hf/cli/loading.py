# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Loading a model with its tokenizer, and everything that is checked before its weights are read."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from rich.status import Status
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from ..cache.online_codebook import ONLINE
from ..codebook.codebook import Codebook
from ..config import VecInferConfig
from ..errors import BackendError, UnsupportedModelError
from ..integration.make import may_make
from ..integration.resolve import AUTO, resolve
from ..model_info import unsupported_reason
from ..model_info.auto_class import auto_class
from ..ops.kernel_loader import load_kernels
from ..version import __version__
from .console import errors


DTYPES = ("float32", "bfloat16", "float16")


def usable_device(name: str | None) -> torch.device:
    """Return the device a user named, by default the GPU if there is one.

    Raises:
        ValueError: if it cannot be used here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device is {name!r}, which cannot be used here: {error}") from error
    if device.type == "meta":
        raise ValueError("--device is 'meta', which holds no numbers; use cpu or cuda.")
    return device


def model_dtype(name: str) -> torch.dtype:
    """Return the dtype of a name.

    Raises:
        ValueError: if it is none of `DTYPES`.
    """
    if name not in DTYPES:
        raise ValueError(f"--dtype is {name!r}; use {', '.join(DTYPES)}, or auto where a model is loaded.")
    return getattr(torch, name)


def wanted_dtype(name: str | None, device: torch.device) -> torch.dtype | str:
    """Return the dtype to load weights in: that of a name, or "auto"; see the option --dtype."""
    if name is None:
        name = "float32" if device.type == "cpu" else "auto"
    return name if name == "auto" else model_dtype(name)


def check_codebook(name: str, revision: str | None = None, subfolder: str | None = None) -> None:
    """Raise for a named codebook that cannot be loaded; a name is mistyped more quickly than a model is loaded."""
    if name not in (ONLINE, AUTO):
        place = {"revision": revision, "subfolder": subfolder}
        Codebook.from_pretrained(name, **{key: value for key, value in place.items() if value is not None})


def check_before_loading(
    model: str, codebook: str, options: dict[str, Any], dtype: str | None, device: str | None
) -> None:
    """Raise for what can be known of a line before weights are read: dtype, device, operators, model and codebook.

    Args:
        model: Hub id or directory; its config is read.
        codebook: name of the codebook.
        options: as `cache_options` returns them.
        dtype: the option --dtype.
        device: the option --device.
    """
    place = usable_device(device)
    wanted_dtype(dtype, place)
    wanted = options.get("ops_backend")
    if wanted in ("cuda", "cpu") and (place.type != wanted or load_kernels(wanted) is None):
        needed = "a CUDA device" if wanted == "cuda" else "--device cpu"
        raise BackendError(
            f"--ops-backend {wanted} needs {needed} and the compiled kernels, and the device is {place}; "
            "`vecinfer doctor` says which kernels load here."
        )
    config = load_config(model)
    reason = unsupported_reason(config)
    if reason:
        raise UnsupportedModelError(f"No VecInfer cache for {model}: {reason}.")
    if codebook != AUTO or not may_make(VecInferConfig(codebook, **options)):
        # "auto" finds or makes one once the weights are there.
        resolve(config, codebook, **options)


def load_config(name: str) -> PreTrainedConfig:
    """Read the config of a model."""
    return AutoConfig.from_pretrained(name)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model."""
    logging.disable_progress_bar()
    return AutoTokenizer.from_pretrained(name)


def load_weights(name: str, dtype: str | None = None, device: str | None = None) -> PreTrainedModel:
    """Load a causal language model, or one for images and text where its config asks for that.

    Raises:
        ValueError: for an unknown dtype or a device that does not exist.
    """
    place = usable_device(device)
    wanted = wanted_dtype(dtype, place)
    logging.disable_progress_bar()
    with Status(f"Loading {name}", console=errors):
        return auto_class(load_config(name)).from_pretrained(name, dtype=wanted).to(place).eval()


def load_model(
    name: str, dtype: str | None = None, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer; see `load_weights`."""
    tokenizer = load_tokenizer(name)
    return load_weights(name, dtype, device), tokenizer


def machine(device: torch.device) -> dict[str, str]:
    """Return what figures are measured with: the device and the versions."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "vecinfer_hf": __version__,
    }
