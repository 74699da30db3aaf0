# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Random codebooks of any format and head shape, for tests that need a valid codebook and no quality.

Owns nothing of calibration: centroids are random, transforms are well conditioned.
"""

import torch

from vecinfer_hf import CalibrationConfig, Codebook
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
