# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Random codebooks of any format and head shape, for tests that need a valid codebook and no quality.

Owns nothing of calibration: centroids are random, transforms are well conditioned.
"""

import json

import torch

from vecinfer_hf import CalibrationConfig, Codebook
from vecinfer_hf.codebook.tensors import file_content
from vecinfer_hf.model_info import HeadShape, model_identity
from vecinfer_hf.ops.types import LayerCodebook
from vecinfer_hf.quantization.formats import CodeFormat, parse_format
from vecinfer_hf.quantization.transforms import query_from_key_transform


def random_transform(heads: int, dim: int, kind: str, generator: torch.Generator) -> torch.Tensor:
    """Return a diagonal (`[heads, dim]`) or full (`[heads, dim, dim]`, condition number below 10) transform."""
    if kind == "smooth_scale":
        return torch.rand(heads, dim, generator=generator) + 0.5
    orthogonal = torch.linalg.qr(torch.randn(heads, dim, dim, generator=generator, dtype=torch.float64))[0]
    return (orthogonal * (torch.rand(heads, 1, dim, generator=generator) + 0.5)).float()


def random_layer(
    heads: int = 2,
    dim: int = 16,
    key_bits="d4b8",
    value_bits="d4b8",
    seed: int = 0,
    kind: str = "smooth_scale",
    mean: bool = False,
    value_kind: str | None = None,
    value_dim: int | None = None,
) -> LayerCodebook:
    """Return a random layer codebook.

    Args:
        heads: key/value heads.
        dim: elements of a key.
        key_bits: format of the keys.
        value_bits: format of the values.
        seed: seed.
        kind: transform of the keys, "smooth_scale" or "matrix".
        mean: whether keys, and values that are transformed, have a mean.
        value_kind: transform of the values, "smooth_scale", "matrix" or None.
        value_dim: elements of a value; default `dim`.
    """
    generator = torch.Generator().manual_seed(seed)
    value_dim = dim if value_dim is None else value_dim

    def centroids(fmt: CodeFormat) -> torch.Tensor:
        shape = (heads, fmt.num_codes, fmt.codebook_size, fmt.subvector_dim)
        table = (torch.randn(shape, generator=generator) * 30).round().clamp(-127, 127)
        if fmt.num_codes > 1:
            table[:, 1:] = (table[:, 1:] * 0.25).round()
        return table.to(torch.int8)

    key_transform = random_transform(heads, dim, kind, generator)
    value_transform = None if value_kind is None else random_transform(heads, value_dim, value_kind, generator)
    inverse = None
    if value_transform is not None:
        inverse = query_from_key_transform(value_transform)
        inverse = inverse.transpose(-1, -2).contiguous() if inverse.dim() == 3 else inverse
    return LayerCodebook(
        torch.randn(heads, dim, generator=generator) if mean else None,
        key_transform,
        query_from_key_transform(key_transform),
        centroids(parse_format(key_bits)),
        torch.full((heads,), 1 / 30) * (1 + torch.rand(heads, generator=generator)),
        torch.randn(heads, value_dim, generator=generator) if mean and value_kind else None,
        value_transform,
        inverse,
        centroids(parse_format(value_bits)),
        torch.full((heads,), 1 / 30) * (1 + torch.rand(heads, generator=generator)),
    )


def layer_of_shape(shape: HeadShape, *bits, **kwargs) -> LayerCodebook:
    """Return a random layer codebook for these heads; other arguments as for `random_layer`."""
    heads, key_dim, value_dim = shape
    return random_layer(heads, key_dim, *bits, value_dim=value_dim, **kwargs)


def random_codebook(config, key_bits=2, value_bits=2, seed: int = 0, layer_bits=None, **kwargs) -> Codebook:
    """Return a random codebook for a model with this config; `kwargs` as for `random_layer`.

    With `layer_bits`, a list of [key_bits, value_bits], each layer has its own formats.
    """
    identity = model_identity(config)
    pairs = layer_bits or [(key_bits, value_bits)] * len(identity.layers)
    layers = {
        index: layer_of_shape(shape, *pair, seed=seed + index, **kwargs)
        for (index, shape), pair in zip(identity.layers.items(), pairs, strict=True)
    }
    bits = {"layer_bits": layer_bits} if layer_bits else {"key_bits": key_bits, "value_bits": value_bits}
    return Codebook(CalibrationConfig(**bits), identity, layers)


def save_format_1(codebook: Codebook, directory, num_attention_heads: int = 4) -> None:
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
            "num_attention_heads": num_attention_heads,
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
    (directory / "codebook.safetensors").write_bytes(file_content(codebook.layers, codebook.identity.layers))
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
