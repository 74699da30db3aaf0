# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The bytes of a model's weights, from its config alone: plain, or quantized as the checkpoint says or a user asks."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig

from ..errors import ConfigError
from ..model_info.auto_class import auto_class


def weight_bytes(config: PreTrainedConfig, dtype: torch.dtype, bits: float | None = None) -> int:
    """Return the bytes of the model's parameters; nothing is allocated.

    Args:
        config: the model's config.
        dtype: dtype of the parameters that are not quantized.
        bits: bits per element of the quantized ones (matrices other than embeddings and output), scales included;
            None for none.
    """
    with torch.device("meta"):
        model = auto_class(config).from_config(config)
    kept = {id(module.weight) for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module}
    total = 0.0
    for parameter in model.parameters():
        is_quantized = bits is not None and parameter.dim() > 1 and id(parameter) not in kept
        total += parameter.numel() * (bits / 8 if is_quantized else dtype.itemsize)
    return int(total)


def checkpoint_dtype(config: PreTrainedConfig) -> torch.dtype:
    """Return the dtype that a checkpoint is stored in; bfloat16 where its config does not say."""
    found = getattr(config, "dtype", None) or getattr(config.get_text_config(decoder=True), "dtype", None)
    found = getattr(torch, found.removeprefix("torch."), None) if isinstance(found, str) else found
    return found if isinstance(found, torch.dtype) else torch.bfloat16


def checkpoint_bits(config: PreTrainedConfig) -> float | None:
    """Return the bits per element of a checkpoint's quantized weights, scales included; None if it is not quantized.

    Raises:
        ConfigError: for a quantization that is not known here.
    """
    given: Any = getattr(config, "quantization_config", None)
    if given is None:
        return None
    given = given if isinstance(given, dict) else given.to_dict()
    method = given.get("quant_method")
    method = getattr(method, "value", method)
    if method == "vecinfer":
        return None
    if method == "bitsandbytes" or "load_in_4bit" in given:
        # A float32 scale for 64 elements, or none for a column of 8 bits.
        return 4.5 if given.get("load_in_4bit") else 8.0
    if method in ("gptq", "awq"):
        # A 16-bit scale and a zero point for each group.
        bits, group = given.get("bits", 4), given.get("group_size", 128)
        return bits + (16 + bits) / group if group > 0 else bits
    if method == "mxfp4":
        return 4.25
    if method in ("fp8", "fbgemm_fp8"):
        return 8.0
    raise ConfigError(
        f"The weights are quantized by {method!r}, whose size is not known here; give --weights-bits, the bits per "
        "element with scales."
    )
