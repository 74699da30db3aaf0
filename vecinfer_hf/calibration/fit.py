# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""From layers' recorded states to their codebooks: the transform of a recipe, then k-means in the transformed space.

Owns the recipes. recorder.py collects the states, kmeans.py clusters, refine.py improves the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from ..calibration_config import RECIPES
from ..ops.types import LayerCodebook
from ..quantization import quantizer
from ..quantization.formats import CodeFormat
from ..quantization.kmeans import residual_kmeans, round_to_int8
from ..quantization.smooth_scale import key_statistics
from ..quantization.transforms import apply_transform, invert_transform, key_inverse
from .loss_transform import loss_transform, token_weights
from .recorder import LayerStates


MAX_POINTS = 32768
"""Sub-vectors that k-means sees of one key/value head, or 16 for each centroid if that is more."""
_ERROR_TOKENS = 2048
_GROUP_PROBLEMS = 96
"""Heads clustered together; their points are held at once, 0.5 MiB each for 4-dimensional sub-vectors."""


class SideTransform(NamedTuple):
    """How the keys or the values of a layer are transformed: `mean`, `transform`, and what undoes it, or None."""

    mean: torch.Tensor | None
    transform: torch.Tensor | None
    inverse: torch.Tensor | None


def fit_layers(
    states: Mapping[int, LayerStates],
    formats: Mapping[int, tuple[CodeFormat, CodeFormat]],
    *,
    recipe: str = "default",
    transforms: Mapping[int, tuple[SideTransform, SideTransform]] | None = None,
    weighted: bool | None = None,
    num_iterations: int = 20,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[int, LayerCodebook]:
    """Return the codebooks of several layers; those with the same format are clustered together.

    Recipes: "default" has the full matrices of loss_transform.py and k-means weighted by what a token's errors cost;
    it needs the gradients of gradients.py. "query" has the scale `sqrt(rms(k) / rms(q))` per channel, which minimizes
    the error of `q . k` for a quantizer whose noise is the same in every channel after the Hadamard rotation, and
    subtracts the keys' mean where that is worth it. "paper" has `smooth_scale = sqrt(max |k|)`, no mean. Both store
    values as they are.

    Args:
        states: layer index -> what `record_states`, or for "default" `record_gradients`, kept of it.
        formats: layer index -> code formats of keys and values.
        recipe: one of `RECIPES`.
        transforms: layer index -> transforms of keys and values, instead of the recipe's.
        weighted: whether k-means weights tokens by what their errors cost, which takes gradients; default as the
            recipe does.
        num_iterations: k-means iterations.
        seed: seed of sampling and seeding.
        progress: as for `kmeans`, with 1 per problem and iteration.

    Raises:
        ValueError: for an unknown recipe, or weights without gradients.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe is {recipe!r}; use one of {RECIPES}.")
    weighted = recipe == "default" if weighted is None else weighted
    if weighted and not all(hasattr(own, "key_gradients") for own in states.values()):
        raise ValueError("Weights of tokens come from gradients; record the states with record_gradients.")
    if transforms is None:
        transforms = {index: side_transforms(states[index], pair, recipe) for index, pair in formats.items()}
    groups: dict[tuple[int, CodeFormat], list[int]] = {}
    for index, pair in formats.items():
        for side, code_format in enumerate(pair):
            groups.setdefault((side, code_format), []).append(index)
    fitted: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
    for (side, code_format), indices in groups.items():
        heads = states[indices[0]].keys.shape[0]
        step = max(1, _GROUP_PROBLEMS // heads)
        for start in range(0, len(indices), step):
            part = indices[start : start + step]
            drawn = [
                _drawn(states[index], side, transforms[index][side], code_format, weighted, seed) for index in part
            ]
            weights = torch.cat([own for _, own in drawn]) if weighted else None
            centroids = residual_kmeans(
                torch.cat([points for points, _ in drawn]),
                code_format.num_codes,
                code_format.codebook_size,
                weights=weights,
                num_iterations=num_iterations,
                seed=seed,
                progress=progress,
            )
            for index, own in zip(part, centroids.split(heads), strict=True):
                fitted[index, side] = round_to_int8(own)
    layers = {}
    for index, (key, value) in transforms.items():
        queries = key.inverse.transpose(-1, -2).contiguous() if key.inverse.dim() == 3 else key.inverse
        layers[index] = LayerCodebook(key.mean, key.transform, queries, *fitted[index, 0], *value, *fitted[index, 1])
    return layers


def side_transforms(
    states: LayerStates, pair: tuple[CodeFormat, CodeFormat], recipe: str
) -> tuple[SideTransform, SideTransform]:
    """Return the transforms of a layer's keys and values under a recipe.

    Raises:
        ValueError: for an unknown recipe.
    """
    if recipe == "default":
        return (
            SideTransform(*loss_transform(states.keys, states.key_fisher, pair[0].subvector_dim, True)),
            SideTransform(*loss_transform(states.values, states.value_fisher, pair[1].subvector_dim, False)),
        )
    mean, scale = key_statistics(states.keys.float(), states.key_absmax, states.query_moment, recipe)
    return SideTransform(mean, 1 / scale, scale), SideTransform(None, None, None)


def _drawn(
    states: LayerStates, side: int, transform: SideTransform, code_format: CodeFormat, weighted: bool, seed: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The sub-vectors of randomly drawn tokens, float32 `[Hkv, points, d]`, and their weights or None."""
    vectors = states.values if side else states.keys
    chosen = _drawn_tokens(vectors, code_format, seed)
    points = apply_transform(vectors.index_select(1, chosen), transform.transform, transform.mean)
    points = points.reshape(points.shape[0], -1, code_format.subvector_dim)
    if not weighted:
        return points, None
    gradients = (states.value_gradients if side else states.key_gradients).index_select(1, chosen)
    weights = token_weights(gradients, transform.inverse)
    return points, weights.repeat_interleave(points.shape[1] // weights.shape[1], 1)


def _drawn_tokens(states: torch.Tensor, code_format: CodeFormat, seed: int) -> torch.Tensor:
    """Indices of tokens drawn at random, enough for `MAX_POINTS` sub-vectors a head."""
    order = torch.randperm(states.shape[1], generator=torch.Generator().manual_seed(seed))
    points = max(MAX_POINTS, 16 * code_format.codebook_size)
    count = max(1, points // code_format.num_subvectors(states.shape[-1]))
    return order[:count].to(states.device)


def error_sample(states: LayerStates) -> LayerStates:
    """Return the states with at most 2048 of their tokens, spread evenly: enough to measure errors on."""
    step = -(-states.keys.shape[1] // _ERROR_TOKENS)
    keys, values = states.keys[:, ::step].clone(), states.values[:, ::step].clone()
    return LayerStates(keys, values, states.key_absmax, states.query_moment)


def layer_errors(states: LayerStates, codebook: LayerCodebook) -> dict[str, float]:
    """Return the relative squared error of keys and values: `|x - x^|^2 / |x|^2` over all tokens in `states`."""
    keys, values = states.keys.float(), states.values.float()
    codebook = codebook.to(keys.device)
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
