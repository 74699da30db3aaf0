# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""From one layer's recorded states to its codebook: the transform of a recipe, then k-means in the transformed space.

Owns the recipes. recorder.py collects the states, kmeans.py clusters, refine.py improves the result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .. import quantizer
from ..formats import CodeFormat
from ..kmeans import residual_kmeans, round_to_int8
from ..ops.types import LayerCodebook
from ..transforms import apply_transform, invert_transform, key_inverse
from .recorder import LayerStates


RECIPES = ("default", "paper")
MAX_POINTS = 65536
"""Sub-vectors that k-means sees of one key/value head; more cost time and change the centroids by noise only."""
_ERROR_TOKENS = 2048
_CENTRING_GAIN = 0.5


def fit_layer(
    states: LayerStates,
    key_format: CodeFormat,
    value_format: CodeFormat,
    *,
    recipe: str = "default",
    num_iterations: int = 20,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> LayerCodebook:
    """Return the codebook of one layer.

    Recipes: "paper" has `smooth_scale = sqrt(max |k|)`, no mean. "default" has the scale
    `sqrt(rms(k) / rms(q))` per channel, which minimizes the error of `q . k` for a quantizer whose noise is the same in
    every channel after the Hadamard rotation, and subtracts the keys' mean where that is worth it. Values are stored as
    they are in both.

    Args:
        states: what `record_states` kept of this layer.
        key_format: code format of the keys.
        value_format: code format of the values.
        recipe: one of `RECIPES`.
        num_iterations: k-means iterations.
        seed: seed of sampling and seeding.
        progress: as for `kmeans`, with 1 per problem and iteration.

    Raises:
        ValueError: for an unknown recipe.
    """
    keys, values = states.keys.float(), states.values.float()
    mean, smooth_scale = key_statistics(keys, states.key_absmax, states.query_moment, recipe)
    key_points = sub_vectors(apply_transform(keys, 1 / smooth_scale, mean), key_format, seed)
    value_points = sub_vectors(values, value_format, seed)
    options = {"num_iterations": num_iterations, "seed": seed, "progress": progress}
    key_centroids = residual_kmeans(key_points, key_format.num_codes, key_format.codebook_size, **options)
    value_centroids = residual_kmeans(value_points, value_format.num_codes, value_format.codebook_size, **options)
    return LayerCodebook(
        mean,
        1 / smooth_scale,
        smooth_scale,
        *round_to_int8(key_centroids),
        None,
        None,
        None,
        *round_to_int8(value_centroids),
    )


def key_statistics(
    keys: torch.Tensor, key_absmax: torch.Tensor, query_moment: torch.Tensor, recipe: str
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Return the keys' mean (or None) and the smooth scale of a recipe, both float32 `[Hkv, D]`.

    Args:
        keys: float32 `[Hkv, samples, D]`.
        key_absmax: float32 `[Hkv, D]`.
        query_moment: float32 `[Hkv, D, D]`.
        recipe: one of `RECIPES`.

    Raises:
        ValueError: for an unknown recipe.
    """
    if recipe == "paper":
        return None, _positive(key_absmax.sqrt())
    if recipe != "default":
        raise ValueError(f"recipe is {recipe!r}; use one of {RECIPES}.")
    query_square = query_moment.diagonal(dim1=-2, dim2=-1).clamp_min(0)
    mean = keys.mean(1)
    raw_square = keys.square().mean(1)
    central_square = (raw_square - mean.square()).clamp_min(0)
    # The error of q . k at a given number of bits is proportional to (sum over channels of rms(k) rms(q)) ** 2.
    raw, central = ((square * query_square).sqrt().sum(-1).square() for square in (raw_square, central_square))
    # A mean depends on the positions seen, so it is used only where keys are mostly offset (models with a key bias).
    centred = (central.sum() < _CENTRING_GAIN * raw.sum()).item()
    square = central_square if centred else raw_square
    smooth_scale = _positive((_positive(square).sqrt() / _positive(query_square).sqrt()).sqrt())
    return (mean if centred else None), smooth_scale


def sub_vectors(states: torch.Tensor, code_format: CodeFormat, seed: int) -> torch.Tensor:
    """Return at most `MAX_POINTS` sub-vectors of each head, those of randomly drawn tokens: `[Hkv, points, d]`.

    Args:
        states: float32 `[Hkv, tokens, D]` in the transformed space.
        code_format: the format, whose `subvector_dim` cuts the heads.
        seed: seed of the draw.
    """
    heads, tokens, head_dim = states.shape
    per_token = code_format.num_subvectors(head_dim)
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))
    chosen = order[: max(1, MAX_POINTS // per_token)].to(states.device)
    return states.index_select(1, chosen).reshape(heads, -1, code_format.subvector_dim)


def layer_errors(states: LayerStates, codebook: LayerCodebook) -> dict[str, float]:
    """Return the relative squared error of the layer's sampled keys and values: `|x - x^|^2 / |x|^2`."""
    keys, values = states.keys[:, :_ERROR_TOKENS].float(), states.values[:, :_ERROR_TOKENS].float()
    restored = restore(keys[None], values[None], codebook)
    return {
        name: ((states - back[0]).square().sum() / states.square().sum().clamp_min(1e-30)).item()
        for name, states, back in (("key", keys, restored[0]), ("value", values, restored[1]))
    }


def restore(
    key_states: torch.Tensor, value_states: torch.Tensor, codebook: LayerCodebook
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what keys and values `[B, Hkv, T, D]` look like after quantization, float32, same shapes."""
    key_vectors = apply_transform(key_states, codebook.key_transform, codebook.key_mean)
    value_vectors = apply_transform(value_states, codebook.value_transform, codebook.value_mean)
    keys, values = (
        quantizer.dequantize(quantizer.quantize(vectors, centroids, scale), centroids, scale)
        for vectors, centroids, scale in (
            (key_vectors, codebook.key_centroids, codebook.key_centroid_scale),
            (value_vectors, codebook.value_centroids, codebook.value_centroid_scale),
        )
    )
    keys = invert_transform(keys, key_inverse(codebook.query_transform), codebook.key_mean)
    return keys, invert_transform(values, codebook.output_transform, codebook.value_mean)


def _positive(values: torch.Tensor) -> torch.Tensor:
    """Keep scales away from 0: a channel that is always 0 gets the floor of its head."""
    floor = values.amax(-1, keepdim=True) * 1e-4
    return torch.where(floor > 0, torch.maximum(values, floor), torch.ones_like(values))
