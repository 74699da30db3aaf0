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
from ..errors import ConfigError
from ..ops.types import LayerCodebook
from ..quantization.formats import CodeFormat
from ..quantization.quantizer import round_to_int8
from ..quantization.residual_kmeans import residual_kmeans
from ..quantization.smooth_scale import key_statistics
from ..quantization.transforms import apply_transform
from .fake_quantization import fake_quantized_states
from .loss_transform import loss_transform, token_weights
from .recorder import LayerStates


MAX_POINTS = 32768
"""Sub-vectors that k-means sees of one key/value head, or 16 for each centroid if that is more."""
_ERROR_TOKENS = 2048
_GROUP_PROBLEMS = 96
"""Heads clustered together; their points are held at once, 0.5 MiB each for 4-dimensional sub-vectors."""


class SideTransform(NamedTuple):
    """How the keys or the values of a layer are transformed.

    Args:
        mean: float32 `[Hkv, D]`, subtracted first, or None.
        transform: float32 `[Hkv, D]`, `[Hkv, D, D]` or None, see `apply_transform`.
        inverse: what undoes it, of the same shape.
    """

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
        ConfigError: for an unknown recipe, or weights without gradients.
    """
    if recipe not in RECIPES:
        raise ConfigError(f"recipe is {recipe!r}; use one of {RECIPES}.")
    weighted = recipe == "default" if weighted is None else weighted
    # Layers of one model may be on several devices; they are clustered together on the first one's.
    device = next(iter(states.values())).keys.device
    if weighted and not all(hasattr(own, "key_gradients") for own in states.values()):
        raise ConfigError("Weights of tokens come from gradients; record the states with record_gradients.")
    if transforms is None:
        transforms = {index: side_transforms(states[index], pair, recipe) for index, pair in formats.items()}
    # Layers of a group have the same number of sub-vectors, so that their points can be stacked.
    groups: dict[tuple[int, CodeFormat, int], list[int]] = {}
    for index, pair in formats.items():
        for side, code_format in enumerate(pair):
            groups.setdefault((side, code_format, states[index].side(side).shape[-1]), []).append(index)
    fitted: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
    for (side, code_format, _), indices in groups.items():
        for part in _parts(indices, [len(states[index].keys) for index in indices]):
            drawn = [
                _drawn(states[index], side, transforms[index][side], code_format, weighted, seed) for index in part
            ]
            weights = torch.cat([own.to(device) for _, own in drawn]) if weighted else None
            centroids = residual_kmeans(
                torch.cat([points.to(device) for points, _ in drawn]),
                code_format.num_codes,
                code_format.codebook_size,
                weights=weights,
                num_iterations=num_iterations,
                seed=seed,
                progress=progress,
            )
            for index, own in zip(part, centroids.split([len(points) for points, _ in drawn]), strict=True):
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
        ConfigError: for an unknown recipe.
    """
    if recipe == "default":
        return (
            SideTransform(*loss_transform(states.keys, states.key_fisher, pair[0].subvector_dim, True)),
            SideTransform(*loss_transform(states.values, states.value_fisher, pair[1].subvector_dim, False)),
        )
    mean, scale = key_statistics(states.keys.float(), states.key_absmax, states.query_moment, recipe)
    return SideTransform(mean, 1 / scale, scale), SideTransform(None, None, None)


def _parts(indices: list[int], heads: list[int]) -> list[list[int]]:
    """Split layers with so many heads into parts of at most `_GROUP_PROBLEMS` heads, or one layer."""
    parts, taken = [], 0
    for index, own in zip(indices, heads, strict=True):
        if not parts or taken + own > _GROUP_PROBLEMS:
            parts.append([])
            taken = 0
        parts[-1].append(index)
        taken += own
    return parts


def _drawn(
    states: LayerStates, side: int, transform: SideTransform, code_format: CodeFormat, weighted: bool, seed: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the sub-vectors of randomly drawn tokens, float32 `[Hkv, points, d]`, and their weights or None."""
    vectors = states.side(side)
    chosen = drawn_tokens(vectors, code_format, seed)
    points = apply_transform(vectors.index_select(1, chosen), transform.transform, transform.mean)
    points = points.reshape(points.shape[0], -1, code_format.subvector_dim)
    if not weighted:
        return points, None
    gradients = (states.value_gradients if side else states.key_gradients).index_select(1, chosen)
    weights = token_weights(gradients, transform.inverse)
    return points, weights.repeat_interleave(points.shape[1] // weights.shape[1], 1)


def drawn_tokens(states: torch.Tensor, code_format: CodeFormat, seed: int) -> torch.Tensor:
    """Return int64 indices of tokens of `[Hkv, samples, D]` drawn at random, enough for `MAX_POINTS` sub-vectors."""
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
    restored = fake_quantized_states(keys[None], values[None], codebook)
    return {
        name: ((states - back[0]).square().sum() / states.square().sum().clamp_min(1e-30)).item()
        for name, states, back in (("key", keys, restored[0]), ("value", values, restored[1]))
    }
