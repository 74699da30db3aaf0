# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A layer's scale and centroids from the keys and values of one prompt, for a model without a calibrated codebook."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..errors import ConfigError
from .formats import CodeFormat
from .quantizer import round_to_int8
from .residual_kmeans import residual_kmeans
from .smooth_scale import key_statistics
from .transforms import apply_transform


ONLINE_POINTS = 8192
ONLINE_ITERATIONS = 6


class OnlineFit(NamedTuple):
    """What `fit_online` finds for one layer of `Hkv` heads, keys of size Dk and values of size Dv.

    Args:
        key_mean: float32 `[Hkv, Dk]` or None.
        smooth_scale: float32 `[Hkv, Dk]`, divides the keys.
        key_centroids: int8 `[Hkv, num_codes, codebook_size, subvector_dim]`.
        key_centroid_scale: float32 `[Hkv]`.
        value_centroids: int8, like `key_centroids`.
        value_centroid_scale: float32 `[Hkv]`.
    """

    key_mean: torch.Tensor | None
    smooth_scale: torch.Tensor
    key_centroids: torch.Tensor
    key_centroid_scale: torch.Tensor
    value_centroids: torch.Tensor
    value_centroid_scale: torch.Tensor


def fit_online(
    key_states: torch.Tensor,
    value_states: torch.Tensor,
    key_format: CodeFormat,
    value_format: CodeFormat,
    query_states: torch.Tensor | None = None,
    *,
    sink_length: int = 4,
    seed: int = 0,
) -> OnlineFit:
    """Fit a layer to a prompt, with at most 8192 sub-vectors per head and 6 k-means iterations.

    Args:
        key_states: `[B, Hkv, T, Dk]` after RoPE, at least one token after the sinks.
        value_states: `[B, Hkv, T, Dv]`.
        key_format: code format of the keys.
        value_format: code format of the values.
        query_states: `[B, Hq, T, Dk]` for the query-aware scale; without them the paper's scale is used.
        sink_length: first tokens left out.
        seed: seed of the draws.

    Raises:
        ConfigError: if no token is left after the sinks.
    """
    heads, tokens, head_dim = key_states.shape[1:]
    if tokens <= sink_length:
        raise ConfigError(
            f"The prompt has {tokens} tokens, none after {sink_length} sinks; an online codebook needs at least one."
        )
    keys, values = (
        states[:, :, sink_length:].float().transpose(0, 1).reshape(heads, -1, states.shape[-1])
        for states in (key_states, value_states)
    )
    moment = torch.zeros(heads, head_dim, head_dim, device=keys.device)
    if query_states is not None:
        square = query_states[:, :, sink_length:].float().square().mean((0, 2))
        moment = torch.diag_embed(square.view(heads, -1, head_dim).mean(1))
    recipe = "paper" if query_states is None else "query"
    mean, smooth_scale = key_statistics(keys, keys.abs().amax(1), moment, recipe)
    sides = []
    for vectors, fmt in ((apply_transform(keys, 1 / smooth_scale, mean), key_format), (values, value_format)):
        needed = max(1, max(ONLINE_POINTS, fmt.codebook_size) // fmt.num_subvectors(vectors.shape[-1]))
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(vectors.shape[1], generator=generator)[:needed].to(vectors.device)
        points = vectors.index_select(1, chosen).reshape(heads, -1, fmt.subvector_dim)
        centroids = residual_kmeans(
            points, fmt.num_codes, fmt.codebook_size, num_iterations=ONLINE_ITERATIONS, seed=seed
        )
        sides.append(round_to_int8(centroids))
    return OnlineFit(mean, smooth_scale, *sides[0], *sides[1])
