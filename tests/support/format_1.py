# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A codebook's directory in format 1, as version 0.1 wrote it: without hashes, so that damage stays to be judged."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_codebooks import random_codebook


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
    tensors, layers = {}, []
    for index, layer in codebook.layers.items():
        matrix = kind == "matrix"
        named = {
            "key.mean": layer.key_mean,
            "key.centroids": layer.key_centroids,
            "key.centroid_scale": layer.key_centroid_scale,
            "value.mean": layer.value_mean,
            "value.centroids": layer.value_centroids,
            "value.centroid_scale": layer.value_centroid_scale,
            f"key.{kind}": layer.key_transform if matrix else layer.query_transform,
            f"value.{kind}": layer.value_transform if matrix else layer.output_transform,
        }
        tensors.update({f"layers.{index}.{name}": tensor.clone().contiguous() for name, tensor in named.items()})
        heads, _, _, _ = layer.key_centroids.shape
        layers.append(
            {
                "index": index,
                "num_key_value_heads": heads,
                "head_dim": layer.key_transform.shape[-1],
                "key_format": key_bits,
                "value_format": value_bits,
                "key_transform": kind,
                "value_transform": kind,
                "key_mean": True,
                "value_mean": True,
            }
        )
    identity = {
        "name": "someone/tiny",
        "revision": None,
        "model_type": config.model_type,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "quantized_layers": list(codebook.layers),
        "shape_hash": "0" * 16,
    }
    options = {"key_bits": 2, "value_bits": 2, "residual_length": 8, "sink_length": 4, "sink_choice": "small_values"}
    description = {
        "format_version": 1,
        "vecinfer_config": {**options, "quant_method": "vecinfer"},
        "model": identity,
        "layers": layers,
        "provenance": {},
        "metrics": {},
    }
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "codebook.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(description, indent=2), encoding="utf-8")


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
