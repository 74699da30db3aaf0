# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A codebook's directory in format 1, as version 0.1 wrote it: without hashes, so that damage stays to be judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_codebooks import random_codebook

from vecinfer_hf import Codebook
from vecinfer_hf.codebook.tensors import layer_tensors


def write_format_1(directory: Path, config, key_bits="d4b8", value_bits="d4b8", kind="smooth_scale") -> None:
    """Write a random codebook for a model with this config into `directory`.

    Args:
        directory: made if there is none.
        config: the model's config.
        key_bits: name of the keys' format.
        value_bits: name of the values' format.
        kind: "smooth_scale" or "matrix", for keys and values.
    """
    codebook = random_codebook(config, key_bits, value_bits, kind=kind, mean=True, value_kind=kind)
    codebook.identity = replace(codebook.identity, name="someone/tiny")
    codebook.config = replace(codebook.config, residual_length=8)
    save_format_1(codebook, directory)


def save_format_1(codebook: Codebook, directory: Path) -> None:
    """Write a codebook as version 0.1 did, whose layers all had the same heads and one head size."""
    directory.mkdir(parents=True, exist_ok=True)
    heads, dim, _ = codebook.head_shape(next(iter(codebook.layers)))
    options = {
        "quant_method": "vecinfer",
        **dict.fromkeys(("codebook", "revision", "subfolder", "trusted_owners", "max_cache_len")),
        "ops_backend": "auto",
        "static": False,
    }
    made = codebook.config.to_dict()
    moved = {"refine_steps": "refine_steps", "recall": "retrieval_fraction", "separators": "separator_fraction",
             "allocated_bits": "allocate"}  # fmt: skip
    provenance = {old: made.pop(new) for old, new in moved.items()}
    if provenance["allocated_bits"] is not None:
        made["layer_bits"] = [[fmt.bits_per_element for fmt in codebook.formats(index)] for index in codebook.layers]
    kinds = {None: lambda tensor: None, True: lambda tensor: "matrix" if tensor.dim() == 3 else "smooth_scale"}
    config = {
        "format_version": 1,
        "library_name": "vecinfer",
        "vecinfer_config": options | made,
        "model": {
            "name": codebook.identity.name,
            "revision": codebook.identity.revision,
            "model_type": codebook.identity.model_type,
            "num_hidden_layers": codebook.identity.num_hidden_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": heads,
            "head_dim": dim,
            "hidden_size": 64,
            "vocab_size": 97,
            "quantized_layers": list(codebook.layers),
            "shape_hash": "0123456789abcdef",
        },
        "layers": [
            {
                "index": index,
                "num_key_value_heads": heads,
                "head_dim": dim,
                "key_format": codebook.formats(index)[0].name,
                "value_format": codebook.formats(index)[1].name,
                "key_transform": kinds[True](layer.key_transform),
                "value_transform": kinds[True if layer.value_transform is not None else None](layer.value_transform),
                "key_mean": layer.key_mean is not None,
                "value_mean": layer.value_mean is not None,
            }
            for index, layer in codebook.layers.items()
        ],
        "provenance": {"sequence_length": made["sequence_length"], **provenance, **codebook.provenance},
        "metrics": codebook.metrics,
    }
    tensors = {}
    for index, layer in codebook.layers.items():
        tensors.update(layer_tensors(index, layer))
    save_file(tensors, directory / "codebook.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def edit(directory: Path, change) -> None:
    """Apply `change` to the content of config.json."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")


def set_number(directory: Path, name: str, value: float) -> None:
    """Write `value` into the first element of every tensor whose name ends in `name`."""
    from safetensors.torch import load_file

    path = directory / "codebook.safetensors"
    tensors = load_file(path)
    found = [key for key in tensors if key.endswith(name)]
    assert found, f"no tensor is called {name}"
    for key in found:
        flat = tensors[key].view(-1)
        flat[0] = torch.tensor(value).to(flat.dtype)
    save_file(tensors, path, metadata={"format": "pt"})
