# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Bounds of the numbers in a codebook, so that no state a model can hold becomes NaN, infinite or noise.

Notation, per head of D elements: a state `x` (key, query or value) has elements up to X = 65504, the largest of
float16, the narrowest dtype a model runs in. `T` is the transform with its Hadamard matrix, `m` the mean, `c` the
centroid_scale, `L_j = c * sum over codes of max |centroid element j|` the largest element j that codes stand for.
`|A|` is the largest sum of absolute values in a column of A, so that `y = x A` has elements up to `max |x| * |A|`.

    rule                                        because
    |m| + sum_j L_j |T^-1_ji| <= X              what codes stand for must be a state: the cache returns it in the
                                                model's dtype, and q . k stays below D X^2
    |T| |T^-1| <= 2^24                          float32 rounds to 2^-24: beyond it, going through the transform and
                                                back leaves nothing but rounding
    (X + |m|) |T|, X |T^-T|, c <= 2^60          transformed keys, transformed queries, and the product of the latter
                                                with c (a step of the int8 kernel) stay finite in float32
    (X + |m|) |T| / c <= 2^80                   scores of the nearest-centroid search, below 2^11 times as much, and
                                                1 / c stay finite in float32

Calibrated codebooks are far inside: of the shipped ones the first reaches 870 and the second 1,090.
"""

from __future__ import annotations

import torch

from ..errors import CodebookError
from ..quantization.transforms import hadamard_block


LARGEST_STATE = 65504.0
"""The largest number in float16."""
_MOST_CONDITION = 2.0**24
_MOST_TRANSFORMED = 2.0**60
_MOST_SEARCHED = 2.0**80


def check_side(
    mean: torch.Tensor | None,
    transform: torch.Tensor | None,
    inverse: torch.Tensor | None,
    centroids: torch.Tensor,
    centroid_scale: torch.Tensor,
    head_dim: int,
    where: str,
) -> None:
    """Raise CodebookError unless the numbers of a layer's keys or values keep the bounds.

    Args:
        mean: float32 `[Hkv, D]` or None.
        transform: float32 `[Hkv, D]` (diagonal, then Hadamard) or `[Hkv, D, D]`, of `x T`, or None.
        inverse: of the same rank, its inverse, or None.
        centroids: int8 `[Hkv, num_codes, 2**bits_per_code, d]`.
        centroid_scale: float32 `[Hkv]`.
        head_dim: D.
        where: the file and the side, for messages.
    """
    # float64, so that the check itself cannot overflow.
    scale = centroid_scale.double()
    if not (scale > 0).all():
        raise CodebookError(f"{where}.centroid_scale must be positive; it is {scale.min().item():g}. Calibrate again.")
    largest = centroids.int().abs().amax(2).sum(1).double() * scale.unsqueeze(1)
    largest = largest.repeat(1, head_dim // centroids.shape[-1])
    offset = torch.zeros_like(scale) if mean is None else mean.double().abs().amax(-1)
    forward, back, query = _column_sums(transform, inverse, head_dim)
    bounds = (
        ("a vector of codes", offset + _reach(largest, inverse), LARGEST_STATE),
        ("the condition number of the transform", forward * back, _MOST_CONDITION),
        ("a transformed state", (LARGEST_STATE + offset) * forward, _MOST_TRANSFORMED),
        ("a transformed query", LARGEST_STATE * query, _MOST_TRANSFORMED),
        ("centroid_scale", scale, _MOST_TRANSFORMED),
        ("a transformed state over centroid_scale", (LARGEST_STATE + offset) * forward / scale, _MOST_SEARCHED),
    )
    for name, value, most in bounds:
        value = torch.as_tensor(value)
        if not (value <= most).all():
            raise CodebookError(
                f"{where} (mean, transform, centroids, centroid_scale): {name} reaches {value.max().item():.3g}, more "
                f"than {most:.6g}; these are no numbers of a calibration. Download or calibrate the codebook again."
            )


def _column_sums(transform: torch.Tensor | None, inverse: torch.Tensor | None, head_dim: int) -> tuple:
    """Return `|T|`, `|T^-1|` and `|T^-T|`, or more, each float64 `[Hkv]` (1.0 without a transform)."""
    if transform is None:
        return 1.0, 1.0, 1.0
    sizes, back = transform.double().abs(), inverse.double().abs()
    if transform.dim() == 3:
        return sizes.sum(-2).amax(-1), back.sum(-2).amax(-1), back.sum(-1).amax(-1)
    # The elements of a block of the Hadamard matrix are +-root: T = diag H, T^-1 = H diag, T^-T = diag H. The sum over
    # all blocks is not less than over one.
    root = hadamard_block(head_dim) ** -0.5
    return sizes.sum(-1) * root, back.amax(-1) / root, back.sum(-1) * root


def _reach(largest: torch.Tensor, inverse: torch.Tensor | None) -> torch.Tensor:
    """Return the largest element of `k~ T^-1` for `|k~_j| <= largest_j`, float64 `[Hkv]`.

    Args:
        largest: float64 `[Hkv, D]`.
        inverse: float32 `[Hkv, D]` (preceded by Hadamard), `[Hkv, D, D]` or None.
    """
    if inverse is None:
        return largest.amax(-1)
    sizes = inverse.double().abs()
    if inverse.dim() == 3:
        return (largest.unsqueeze(-1) * sizes).sum(-2).amax(-1)
    block = hadamard_block(largest.shape[-1])
    turned = largest.unflatten(-1, (-1, block)).sum(-1) * block**-0.5
    return (turned.repeat_interleave(block, -1) * sizes).amax(-1)
