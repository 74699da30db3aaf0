# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A layer's transform and centroids from the states of one prompt, for a model without a calibrated codebook.

    sampled queries -> attention -> what an error of each key and value costs the attention's output
    costs -> transform of the keys -> data-free centroids, stretched to the transformed keys -> a few Lloyd steps

Owns this fit. All heads go through each step together, and nothing is read back by the host. For H key/value heads of
size D, T tokens, S sampled queries of each query head and N sub-vectors of d elements it takes about
`6 Hq S T D + 8 H T D^2 + 30 H D^3 + 4 steps H N 2^b d` operations: 2.1 TFLOP for the 32 layers of Llama 3.1 8B and a
prompt of 8,192 tokens.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from ..errors import ConfigError
from .formats import CodeFormat
from .quantizer import look_up, nearest_centroids, round_to_int8
from .residual_kmeans import residual_kmeans


POINTS = 32768
"""Sub-vectors that centroids of one head are fitted to."""
QUERIES = 256
"""Queries of each head whose attention is computed."""
LAST_TOKENS = 8192
"""Tokens at the end of a longer prompt that these attend to; as many of the earlier ones are looked at."""
_SCORES = 1 << 25
"""Attention weights held at once, 128 MB of each of the few arrays."""
STEPS = 6
"""Lloyd steps from the data-free centroids."""
PRIOR = 2.0
"""Points that a centroid's place without data counts as."""
PRIOR_TOKENS, PRIOR_POINTS = 4.0, 32.0
"""Tokens and sub-vectors of equal size in every direction that are added to the prompt's."""
IMPORTANCE_SHARE = 0.1
"""Share of an isotropic importance that is mixed in: no direction is worth nothing."""
WEIGHT_EXPONENT = 0.5
MOMENT_FLOOR = 0.01
_WEIGHT_RANGE = (0.02, 20.0)
_FEWEST_QUERIES = 32
_GAUSSIAN_POINTS = 1 << 15


class SideFit(NamedTuple):
    """What `fit_online` finds for the keys or values of one layer of H heads of size D.

    Args:
        mean: float32 `[H, D]`, subtracted first.
        transform: float32 `[H, D, D]`.
        inverse: float32 `[H, D, D]`, what undoes it.
        centroids: int8 `[H, num_codes, codebook_size, subvector_dim]`.
        scale: float32 `[H]`, of the centroids.
    """

    mean: torch.Tensor
    transform: torch.Tensor
    inverse: torch.Tensor
    centroids: torch.Tensor
    scale: torch.Tensor


def fit_online(
    keys: torch.Tensor,
    values: torch.Tensor,
    key_format: CodeFormat,
    value_format: CodeFormat,
    queries: torch.Tensor | None = None,
    *,
    own_tokens: int | None = None,
    residual_length: int = 128,
    seed: int = 0,
) -> tuple[SideFit, SideFit]:
    """Fit a layer to the states of a prompt; the same arguments give the same fit on a CPU.

    Args:
        keys: `[H, T, Dk]` after RoPE, without sinks, at least one token.
        values: `[H, T, Dv]`.
        key_format: code format of the keys.
        value_format: code format of the values.
        queries: `[Hq, T', Dk]` of the last T' tokens, or None: every direction and token then counts alike.
        own_tokens: tokens at the end that the queries may attend to; None for all.
        residual_length: recent tokens that a query reads in full precision.
        seed: seed of the data-free centroids.

    Raises:
        ConfigError: without a token.
    """
    tokens = keys.shape[1]
    if tokens == 0:
        raise ConfigError("The prompt has no token after the sinks; an online codebook needs at least one.")
    own = tokens if own_tokens is None else own_tokens
    if tokens > 2 * LAST_TOKENS:
        earlier = tokens - LAST_TOKENS
        spread = torch.arange(0, earlier, -(-earlier // LAST_TOKENS), device=keys.device)
        kept = torch.cat([spread, torch.arange(earlier, tokens, device=keys.device)])
        keys, values, own = keys[:, kept], values[:, kept], min(own, LAST_TOKENS)
        tokens = len(kept)
    keys, values = keys.float(), values.float()
    moment = key_weights = value_weights = None
    if queries is not None and min(queries.shape[1], own) >= residual_length + _FEWEST_QUERIES:
        last = queries[:, max(0, queries.shape[1] - own) :].float()
        moment, *weights = attention_costs(last, keys[:, tokens - own :], values[:, tokens - own :], residual_length)
        key_weights, value_weights = (pad(each, (tokens - own, 0), value=1.0) for each in weights)
    sides = []
    for states, code_format, importance, weights in (
        (keys, key_format, moment, key_weights),
        (values, value_format, None, value_weights),
    ):
        mean, transform, inverse = transform_for(states, importance, code_format.subvector_dim, importance is not None)
        count = max(1, POINTS // code_format.num_subvectors(states.shape[-1]))
        chosen = torch.arange(0, tokens, max(1, tokens // count), device=states.device)[:count]
        points = (states[:, chosen] - mean.unsqueeze(1)) @ transform
        points = points.reshape(len(points), -1, code_format.subvector_dim)
        if weights is not None:
            weights = weights[:, chosen].repeat_interleave(points.shape[1] // len(chosen), 1)
        centroids = _lloyd(points, weights, data_free_centroids(code_format, seed).to(points.device))
        sides.append(SideFit(mean, transform, inverse, *round_to_int8(centroids)))
    return sides[0], sides[1]


def attention_costs(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, residual_length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what errors of keys and values cost the attention's output, from a sample of the queries.

    To first order an error `e` of key `t` changes the output `o` of a query by `p_t (q . e) (v_t - o)`, and an error
    of value `t` by `p_t e`, with `p` the attention.

    Args:
        queries: float32 `[Hq, T', Dk]`, of the last T' tokens.
        keys: float32 `[H, T, Dk]`.
        values: float32 `[H, T, Dv]`.
        residual_length: recent tokens that a query reads in full precision.

    Returns:
        The importance of key directions float32 `[H, Dk, Dk]`, and weights of keys and of values, float32 `[H, T]`.
    """
    heads, tokens, dim = keys.shape
    group, last = queries.shape[0] // heads, queries.shape[1]
    chosen = torch.arange(0, last, max(1, last // QUERIES), device=keys.device)
    most = max(1, _SCORES // (group * len(chosen) * tokens))
    if heads > most:
        parts = zip(queries.split(most * group), keys.split(most), values.split(most), strict=True)
        found = [attention_costs(*part, residual_length) for part in parts]
        return tuple(torch.cat(each) for each in zip(*found, strict=True))
    rows = queries.view(heads, group, last, dim)[:, :, chosen].flatten(1, 2)
    positions = (chosen + tokens - last).repeat(group)
    index = torch.arange(tokens, device=keys.device)
    scores = rows @ keys.transpose(1, 2) * dim**-0.5
    scores = scores.masked_fill(index > positions.unsqueeze(1), float("-inf"))
    attention = scores.softmax(-1).nan_to_num(0.0)
    output = attention @ values
    distance = values.square().sum(-1).unsqueeze(1) - 2 * output @ values.transpose(1, 2)
    distance = (distance + output.square().sum(-1, keepdim=True)).clamp_min(0)
    quantized = index <= positions.unsqueeze(1) - residual_length
    square = attention.square() * quantized
    cost = square * distance
    key_cost = (cost * rows.square().sum(-1, keepdim=True)).sum(1)
    # Every token counts alike for the directions: a few cost more than all others together.
    level = key_cost.mean(-1, keepdim=True).clamp_min(1e-30)
    share = 1 / (key_cost + MOMENT_FLOOR * level)
    moment = (rows * (cost @ share.unsqueeze(-1))).transpose(1, 2) @ rows
    key_weights = key_cost
    return moment, _weights(key_weights), _weights(square.sum(1))


def _weights(cost: torch.Tensor) -> torch.Tensor:
    """Return weights in k-means from costs float32 `[H, T]`; tokens without a cost yet get the mean."""
    level = cost.sum(-1, keepdim=True) / (cost > 0).sum(-1, keepdim=True).clamp_min(1)
    share = torch.where((level > 0) & (cost > 0), cost / level.clamp_min(1e-38), torch.ones_like(cost))
    return share.clamp(*_WEIGHT_RANGE) ** WEIGHT_EXPONENT


def transform_for(
    states: torch.Tensor, importance: torch.Tensor | None, subvector_dim: int, centred: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return mean `[H, D]`, transform and inverse `[H, D, D]`, after which squared error is cost; all float32.

    As `calibration/loss_transform.py`: a root of the importance, then the principal axes of what is quantized, dealt
    out to the sub-vectors so that each has axes of all sizes.

    Args:
        states: float32 `[H, T, D]`.
        importance: float32 `[H, D, D]`, positive semi-definite, or None: all directions alike.
        subvector_dim: elements per sub-vector.
        centred: subtract the mean.
    """
    heads, tokens, dim = states.shape
    mean = states.mean(1) if centred else states.new_zeros(heads, dim)
    central = states - mean.unsqueeze(1)
    covariance = central.transpose(1, 2) @ central / tokens
    identity = torch.eye(dim, device=states.device).expand(heads, -1, -1)
    # Few tokens say little of most directions: those then count as large as the mean one.
    size = states.square().mean((1, 2)).view(-1, 1, 1)
    covariance = (tokens * covariance + PRIOR_TOKENS * size * identity) / (tokens + PRIOR_TOKENS)
    root = root_inverse = identity
    if importance is not None:
        level = importance.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-30).view(-1, 1, 1)
        root = torch.linalg.cholesky((1 - IMPORTANCE_SHARE) * importance / level + IMPORTANCE_SHARE * identity)
        root_inverse = torch.linalg.solve_triangular(root, identity, upper=False)
    inner = root.transpose(1, 2) @ covariance @ root
    principal = torch.linalg.eigh(0.5 * (inner + inner.transpose(1, 2)))[1].flip(-1)
    turned = torch.empty_like(principal)
    turned[..., dealt_positions(dim, subvector_dim).to(states.device)] = principal
    return mean, root @ turned, turned.transpose(1, 2) @ root_inverse


@lru_cache(maxsize=32)
def dealt_positions(dim: int, subvector_dim: int) -> torch.Tensor:
    """Return where each axis goes, largest first: round by round over the sub-vectors, forwards and back."""
    groups = dim // subvector_dim
    axis = torch.arange(dim)
    turn, place = axis // groups, axis % groups
    group = torch.where(turn % 2 == 0, place, groups - 1 - place)
    return group * subvector_dim + turn


@lru_cache(maxsize=32)
def data_free_centroids(code_format: CodeFormat, seed: int = 0) -> torch.Tensor:
    """Return centroids of standard normal sub-vectors, float32 `[num_codes, codebook_size, subvector_dim]`."""
    with torch.inference_mode(False):
        generator = torch.Generator().manual_seed(seed)
        count = max(_GAUSSIAN_POINTS, 8 * code_format.codebook_size)
        points = torch.randn(1, count, code_format.subvector_dim, generator=generator)
        options = {"num_iterations": 8, "seed": seed}
        return residual_kmeans(points, code_format.num_codes, code_format.codebook_size, **options)[0]


def _lloyd(points: torch.Tensor, weights: torch.Tensor | None, prior: torch.Tensor) -> torch.Tensor:
    """Return centroids `[H, num_codes, K, d]` after a few steps from the prior, stretched to the points' sizes.

    Args:
        points: float32 `[H, N, d]`.
        weights: float32 `[H, N]`, or None.
        prior: float32 `[num_codes, K, d]`, of standard normal sub-vectors.
    """
    heads, count, dim = points.shape
    weights = torch.ones(heads, count, device=points.device) if weights is None else weights
    total = weights.sum(-1)[:, None, None].clamp_min(1e-30)
    square = (points.square() * weights.unsqueeze(-1)).sum(1, keepdim=True)
    size = (square + PRIOR_POINTS * (square / total).mean(-1, keepdim=True)) / (total + PRIOR_POINTS)
    size = size.sqrt()
    columns = torch.cat([points * weights.unsqueeze(-1), weights.unsqueeze(-1)], -1)
    levels, rest = [], points
    for level in prior:
        start = level * size
        centroids = start
        for _ in range(STEPS):
            codes = nearest_centroids(rest, centroids)[0]
            sums = torch.zeros(heads, len(level), dim + 1, device=points.device)
            sums.scatter_add_(1, codes.unsqueeze(-1).expand(-1, -1, dim + 1), columns)
            centroids = (sums[..., :dim] + PRIOR * centroids) / (sums[..., dim:] + PRIOR)
        levels.append(centroids)
        if len(levels) < len(prior):
            rest = rest - look_up(centroids, nearest_centroids(rest, centroids)[0])
            columns = torch.cat([rest * weights.unsqueeze(-1), weights.unsqueeze(-1)], -1)
    return torch.stack(levels, 1)
