# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""From layers' recorded states to their codebooks: the transform of a recipe, then k-means in the transformed space.

Owns the recipes. recorder.py collects the states, kmeans.py clusters, refine.py improves the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from .. import quantizer
from ..formats import CodeFormat
from ..kmeans import residual_kmeans, round_to_int8
from ..ops.types import LayerCodebook
from ..transforms import apply_transform, invert_transform, key_inverse
from .recorder import LayerStates


RECIPES = ("default", "paper")
MAX_POINTS = 32768
"""Sub-vectors that k-means sees of one key/value head, or 16 for each centroid if that is more."""
_ERROR_TOKENS = 2048
_GROUP_PROBLEMS = 96
"""Heads clustered together; their points are held at once, 0.5 MiB each for 4-dimensional sub-vectors."""
_CENTRING_GAIN = 0.5


def fit_layers(
    states: Mapping[int, LayerStates],
    formats: Mapping[int, tuple[CodeFormat, CodeFormat]],
    *,
    recipe: str = "default",
    num_iterations: int = 20,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[int, LayerCodebook]:
    """Return the codebooks of several layers; those with the same format are clustered together.

    Recipes: "paper" has `smooth_scale = sqrt(max |k|)`, no mean. "default" has the scale
    `sqrt(rms(k) / rms(q))` per channel, which minimizes the error of `q . k` for a quantizer whose noise is the same
    in every channel after the Hadamard rotation, and subtracts the keys' mean where that is worth it. Values are
    stored as they are in both.

    Args:
        states: layer index -> what `record_states` kept of it.
        formats: layer index -> code formats of keys and values.
        recipe: one of `RECIPES`.
        num_iterations: k-means iterations.
        seed: seed of sampling and seeding.
        progress: as for `kmeans`, with 1 per problem and iteration.

    Raises:
        ValueError: for an unknown recipe.
    """
    scales = {
        index: key_statistics(states[index].keys.float(), states[index].key_absmax, states[index].query_moment, recipe)
        for index in formats
    }

    def points(index: int, side: int) -> torch.Tensor:
        if side == 1:
            return sub_vectors(states[index].values, formats[index][1], seed)
        mean, smooth_scale = scales[index]
        code_format = formats[index][0]
        chosen = _drawn_tokens(states[index].keys, code_format, seed)
        return sub_vectors(apply_transform(chosen, 1 / smooth_scale, mean), code_format, None)

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
            centroids = residual_kmeans(
                torch.cat([points(index, side) for index in part]),
                code_format.num_codes,
                code_format.codebook_size,
                num_iterations=num_iterations,
                seed=seed,
                progress=progress,
            )
            for index, own in zip(part, centroids.split(heads), strict=True):
                fitted[index, side] = round_to_int8(own)
    return {
        index: LayerCodebook(
            scales[index][0],
            1 / scales[index][1],
            scales[index][1],
            *fitted[index, 0],
            None,
            None,
            None,
            *fitted[index, 1],
        )
        for index in formats
    }


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
    smooth_scale = _positive((_positive(square, 1e-8) / _positive(query_square, 1e-8)).sqrt().sqrt())
    return (mean if centred else None), smooth_scale


def sub_vectors(states: torch.Tensor, code_format: CodeFormat, seed: int | None) -> torch.Tensor:
    """Return the sub-vectors of randomly drawn tokens, about `MAX_POINTS` a head: float32 `[Hkv, points, d]`.

    Args:
        states: `[Hkv, tokens, D]` in the transformed space.
        code_format: the format, whose `subvector_dim` cuts the heads.
        seed: seed of the draw; None to take all tokens.
    """
    chosen = states if seed is None else _drawn_tokens(states, code_format, seed)
    return chosen.float().reshape(states.shape[0], -1, code_format.subvector_dim)


def _drawn_tokens(states: torch.Tensor, code_format: CodeFormat, seed: int) -> torch.Tensor:
    order = torch.randperm(states.shape[1], generator=torch.Generator().manual_seed(seed))
    points = max(MAX_POINTS, 16 * code_format.codebook_size)
    count = max(1, points // code_format.num_subvectors(states.shape[-1]))
    return states.index_select(1, order[:count].to(states.device))


def error_sample(states: LayerStates) -> LayerStates:
    """Return the states with at most 2048 of their tokens, spread evenly: enough to measure errors on."""
    step = -(-states.keys.shape[1] // _ERROR_TOKENS)
    return replace(states, keys=states.keys[:, ::step].clone(), values=states.values[:, ::step].clone())


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


def _positive(values: torch.Tensor, share: float = 1e-4) -> torch.Tensor:
    """Keep scales away from 0: no channel gets less than this share of its head's largest."""
    floor = values.amax(-1, keepdim=True) * share
    return torch.where(floor > 0, torch.maximum(values, floor), torch.ones_like(values))
