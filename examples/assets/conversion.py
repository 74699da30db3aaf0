# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Convert a known GGUF file to a directory of bfloat16 safetensors with its tokenizer. Owns no model's name."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path

from .storage import sha256


logger = logging.getLogger(__name__)

_SENTENCE = "Nobody would have believed in the last years of the nineteenth century that this world was being watched."


def convert_gguf(gguf: Path, directory: Path, model_id: str, expected_sha256: str, remedy: str) -> None:
    """Check a GGUF file and write what `from_pretrained` loads, with a `source.json` that says where it came from.

    Args:
        gguf: the file.
        directory: to make and fill.
        model_id: what published numbers call the model.
        expected_sha256: of the file.
        remedy: what to do about a file that is another one.

    Raises:
        FileNotFoundError: if the package gguf, which reads the file, is not installed.
        ValueError: if the file is not the known one.
        RuntimeError: if the installed transformers cannot read the file's tokenizer.
    """
    if importlib.util.find_spec("gguf") is None:
        raise FileNotFoundError(f"Reading {gguf.name} needs the Python package gguf: pip install gguf")
    found = sha256(gguf)
    if found != expected_sha256:
        raise ValueError(f"{gguf} has SHA-256 {found}, expected {expected_sha256}; {remedy}.")
    directory.mkdir(exist_ok=True)

    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(directory)
    # First, because it is quick. transformers 5.17 loses the merges of Gemma's without a word: letters become tokens.
    count = len(AutoTokenizer.from_pretrained(directory)(_SENTENCE, add_special_tokens=False)["input_ids"])
    if count > len(_SENTENCE) // 2:
        raise RuntimeError(
            f"transformers {transformers.__version__} makes {count} tokens of a sentence of {len(_SENTENCE)} letters "
            f"with the tokenizer in {gguf.name}, so it does not read it right; pip install 'transformers>=5.24'."
        )
    logger.info("Converting %s to safetensors, once", gguf.name)
    # Dequantized on load, or transformers keeps the model marked as quantized and refuses to save it.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(directory)
    source = {"model": model_id, "gguf_sha256": found, "safetensors_sha256": sha256(directory / "model.safetensors")}
    (directory / "source.json").write_text(json.dumps(source, indent=2) + "\n")
