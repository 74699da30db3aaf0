# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The keys' mean and smooth scale per channel, from statistics of keys and queries.

Equation 4 of https://arxiv.org/abs/2510.06175 for "paper"; "query" weighs channels by the queries too.
"""

from __future__ import annotations

import torch

from ..errors import ConfigError


_CENTRING_GAIN = 0.5
"""A mean is subtracted if it takes the expected error below this fraction."""


def key_statistics(
    keys: torch.Tensor, key_absmax: torch.Tensor, query_moment: torch.Tensor, recipe: str
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Return the keys' mean (or None) and the smooth scale of a recipe, both float32 `[Hkv, D]`.

    Args:
        keys: float32 `[Hkv, samples, D]`.
        key_absmax: float32 `[Hkv, D]`.
        query_moment: float32 `[Hkv, D, D]`.
        recipe: "query" or "paper".

    Raises:
        ConfigError: for an unknown recipe.
    """
    if recipe == "paper":
        return None, _positive(key_absmax.sqrt())
    if recipe != "query":
        raise ConfigError(f"recipe is {recipe!r}; a smooth scale has the recipe 'query' or 'paper'.")
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


def _positive(values: torch.Tensor, share: float = 1e-4) -> torch.Tensor:
    """Return `values` `[Hkv, D]` raised to at least this share of their head's largest; 1 where all are 0."""
    floor = values.amax(-1, keepdim=True) * share
    return torch.where(floor > 0, torch.maximum(values, floor), torch.ones_like(values))
