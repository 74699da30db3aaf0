# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The full transform of keys or values after which squared error is loss and every sub-vector is worth the same.

Owns the linear algebra. gradients.py measures what an error costs, fit.py clusters in the transformed space.
"""

from __future__ import annotations

import torch

from ..quantization.transforms import rounded_matrix


IMPORTANCE_SHARE = 0.1
"""Share of an isotropic importance that is mixed in: gradients are noisy, and no direction is worth nothing."""
WEIGHT_EXPONENT = 0.5
"""Exponent of a token's measured cost as its weight in k-means; 1 would follow the noise of single gradients."""
_WEIGHT_RANGE = (0.02, 20.0)


def loss_transform(
    states: torch.Tensor, importance: torch.Tensor, subvector_dim: int, centred: bool
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Return mean, transform and inverse that make a quantizer's squared error the expected loss.

    With the importance `M = A A` (A symmetric), an error `e` costs `|e A|^2`, so vectors are quantized as
    `(x - mean) A U P`: U turns to the principal axes of what is to be quantized, P deals them out to the sub-vectors
    back and forth, largest first, so that every sub-vector has axes of all sizes and about the same volume. A product
    quantizer then spends its bits on the large ones, which a Hadamard rotation, making all channels alike, prevents.

    Args:
        states: `[Hkv, samples, D]`.
        importance: float32 `[Hkv, D, D]`, positive semi-definite; its scale does not matter.
        subvector_dim: elements per sub-vector, a divisor of D.
        centred: subtract the mean. Not for values: those of tokens that only draw attention are near 0 and must stay.

    Returns:
        float32 `[Hkv, D]` or None, `[Hkv, D, D]` (rounded as it will be stored) and its inverse, on the device of
        `states`.
    """
    _, samples, dim = states.shape
    mean = states.float().mean(1) if centred else None
    central = states.float() - mean.unsqueeze(1) if centred else states.float()
    covariance = (central.transpose(1, 2) @ central / samples).double().cpu()
    moment = importance.double().cpu()
    identity = torch.eye(dim, dtype=torch.float64)
    level = moment.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-300).view(-1, 1, 1)
    moment = (1 - IMPORTANCE_SHARE) * moment / level + IMPORTANCE_SHARE * identity
    sizes, axes = torch.linalg.eigh(moment)
    root = (axes * sizes.sqrt().unsqueeze(1)) @ axes.transpose(1, 2)
    principal = torch.linalg.eigh(root @ covariance @ root)[1].flip(-1)
    turned = torch.empty_like(principal)
    turned[..., dealt_positions(dim, subvector_dim)] = principal
    matrix = rounded_matrix((root @ turned).float())
    return mean, matrix.to(states.device), torch.linalg.inv(matrix.double()).float().to(states.device)


def dealt_positions(dim: int, subvector_dim: int) -> torch.Tensor:
    """Return where each axis goes, largest first: round by round over the sub-vectors, forwards and back."""
    groups = dim // subvector_dim
    axis = torch.arange(dim)
    turn, place = axis // groups, axis % groups
    group = torch.where(turn % 2 == 0, place, groups - 1 - place)
    return group * subvector_dim + turn


def token_weights(gradients: torch.Tensor, inverse: torch.Tensor | None) -> torch.Tensor:
    """Return the tokens' weights in k-means, float32 `[Hkv, tokens]`: what an error in the transformed space costs.

    Args:
        gradients: `[Hkv, tokens, D]` of the untransformed vectors.
        inverse: float32 `[Hkv, D, D]`, or `[Hkv, D]` in front of a rotation, which changes no norm, or None.
    """
    turned = gradients.float()
    if inverse is not None:
        turned = turned @ inverse.transpose(1, 2) if inverse.dim() == 3 else turned * inverse.unsqueeze(1)
    cost = turned.square().mean(-1)
    level = cost.mean(-1, keepdim=True)
    share = torch.where(level > 0, cost / level.clamp_min(1e-38), torch.ones_like(cost))
    return share.clamp(*_WEIGHT_RANGE) ** WEIGHT_EXPONENT
