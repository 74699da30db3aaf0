# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The transforms in front of the quantizer: smooth scaling, Hadamard rotation, or a full matrix per head.

Owns the linear algebra of keys, queries and values; knows nothing of codes.
Equations 4 to 6 of https://arxiv.org/abs/2510.06175 (smooth scale, Hadamard, dual transform of the queries).
"""

from __future__ import annotations

from functools import lru_cache

import torch


def hadamard_block(head_dim: int) -> int:
    """Return the largest power of two that divides `head_dim`: the size of a Hadamard block."""
    return head_dim & -head_dim


@lru_cache(maxsize=16)
def hadamard_matrix(head_dim: int) -> torch.Tensor:
    """Return the orthonormal, symmetric block Walsh-Hadamard matrix H (Sylvester order), float32 `[D, D]`.

    `H @ H` is the identity. A head size that is not a power of two gets one block per odd factor:
    80 is five blocks of 16.
    """
    size = hadamard_block(head_dim)
    # Cached: built on the CPU, outside inference mode.
    with torch.inference_mode(False):
        matrix = torch.ones(1, 1, dtype=torch.float32, device="cpu")
        while matrix.shape[0] < size:
            matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0)
        return torch.block_diag(*[matrix * size**-0.5] * (head_dim // size))


def apply_transform(states: torch.Tensor, transform: torch.Tensor | None, mean: torch.Tensor | None) -> torch.Tensor:
    """Return `((states - mean) * transform) H` for a diagonal transform, `(states - mean) @ transform` for a full one.

    Args:
        states: `[..., Hkv, T, D]`, any float dtype; the arithmetic is float32.
        transform: float32 `[Hkv, D]`, `[Hkv, D, D]` or None (identity).
        mean: float32 `[Hkv, D]` or None.

    Returns:
        float32, shape of `states`.
    """
    states = states.float()
    if mean is not None:
        states = states - mean.unsqueeze(-2)
    if transform is None:
        return states
    if transform.dim() == 3:
        return states @ transform
    return (states * transform.unsqueeze(-2)) @ hadamard_matrix(states.shape[-1]).to(states.device)


def invert_transform(states: torch.Tensor, inverse: torch.Tensor | None, mean: torch.Tensor | None) -> torch.Tensor:
    """Return the original space's vectors: `(states H) * inverse + mean`, or `states @ inverse + mean`.

    Args:
        states: float32 `[..., Hkv, T, D]` in the transformed space.
        inverse: float32 `[Hkv, D]` (elementwise inverse of the diagonal), `[Hkv, D, D]` (inverse matrix) or None.
        mean: float32 `[Hkv, D]` or None.

    Returns:
        float32, shape of `states`.
    """
    if inverse is not None:
        if inverse.dim() == 3:
            states = states @ inverse
        else:
            states = (states @ hadamard_matrix(states.shape[-1]).to(states.device)) * inverse.unsqueeze(-2)
    return states if mean is None else states + mean.unsqueeze(-2)


def key_inverse(query_transform: torch.Tensor) -> torch.Tensor:
    """Return the inverse of the key transform, which is the (transposed) query transform."""
    return query_transform.transpose(-1, -2) if query_transform.dim() == 3 else query_transform


def query_from_key_transform(key_transform: torch.Tensor) -> torch.Tensor:
    """Return the query transform that keeps `q~ . k~ = q . (k - mean)`: reciprocal, or inverse transpose."""
    if key_transform.dim() == 2:
        return 1.0 / key_transform
    return torch.linalg.inv(key_transform.double()).transpose(-1, -2).float().contiguous()


def rounded_matrix(matrix: torch.Tensor) -> torch.Tensor:
    """Return full matrices `[Hkv, D, D]` rounded to float16's 11 bits, float32, so that they are stored in that.

    A head whose largest element is outside 0.01 to 60000 would lose more than that; then nothing is rounded.
    """
    largest = matrix.abs().amax((1, 2))
    return matrix.half().float() if ((largest > 0.01) & (largest < 6e4)).all() else matrix
