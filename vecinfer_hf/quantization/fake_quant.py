# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Fake quantization: keys or values as they come back from their codes, in full precision.

    states -- transform -> vectors -- quantize -> codes -- dequantize -> vectors -- inverse -> states

Owns the way there and back of one side, plain and trainable. transforms.py and quantizer.py own its steps.
"""

from __future__ import annotations

import torch

from .quantizer import decode, dequantize, encode, quantize, round_to_int8
from .transforms import apply_transform, invert_transform, rounded_matrix


def states_to_codes(
    states: torch.Tensor,
    transform: torch.Tensor | None,
    mean: torch.Tensor | None,
    centroids: torch.Tensor,
    centroid_scale: torch.Tensor,
) -> torch.Tensor:
    """Return the codes of keys or values, int32 `[B, Hkv, T, num_codes, D / subvector_dim]`.

    Args:
        states: `[B, Hkv, T, D]`, any float dtype.
        transform: float32 `[Hkv, D]`, `[Hkv, D, D]` or None, see `apply_transform`.
        mean: float32 `[Hkv, D]` or None.
        centroids: int8 `[Hkv, num_codes, codebook_size, subvector_dim]`.
        centroid_scale: float32 `[Hkv]`.
    """
    return quantize(apply_transform(states, transform, mean), centroids, centroid_scale)


def codes_to_states(
    codes: torch.Tensor,
    inverse: torch.Tensor | None,
    mean: torch.Tensor | None,
    centroids: torch.Tensor,
    centroid_scale: torch.Tensor,
) -> torch.Tensor:
    """Return the keys or values that codes stand for, float32 `[B, Hkv, T, D]`.

    Args:
        codes: int32 `[B, Hkv, T, num_codes, D / subvector_dim]`.
        inverse: float32 `[Hkv, D]`, `[Hkv, D, D]` or None, see `invert_transform`.
        mean: float32 `[Hkv, D]` or None.
        centroids: int8 `[Hkv, num_codes, codebook_size, subvector_dim]`.
        centroid_scale: float32 `[Hkv]`.
    """
    return invert_transform(dequantize(codes, centroids, centroid_scale), inverse, mean)


def fake_quantize(
    states: torch.Tensor,
    transform: torch.Tensor | None,
    inverse: torch.Tensor | None,
    mean: torch.Tensor | None,
    centroids: torch.Tensor,
    centroid_scale: torch.Tensor,
) -> torch.Tensor:
    """Return `states` `[B, Hkv, T, D]` after quantization, float32; arguments as for the two functions above."""
    codes = states_to_codes(states, transform, mean, centroids, centroid_scale)
    return codes_to_states(codes, inverse, mean, centroids, centroid_scale)


class FakeQuantizer(torch.nn.Module):
    """Trainable fake quantization of one side (keys or values) of a layer, with a straight-through gradient.

    Parameters are the centroids, a mean if there is one (`mean_shift`, in units of each channel's size), and the
    transform: for a diagonal one the logarithm `log_scale` of its inverse, for a full matrix the relative change
    `turn` of its inverse, so that `inverse = (I + turn) inverse_0`. The gradient flows through the inverse, the
    centroids and the mean; the transform in front of the codes follows as the inverse's inverse.

    Args:
        transform: float32 `[Hkv, D]`, `[Hkv, D, D]` or None, as in `LayerCodebook`.
        mean: float32 `[Hkv, D]` or None.
        centroids: int8 `[Hkv, n, 2**b, d]`.
        centroid_scale: float32 `[Hkv]`.
    """

    def __init__(
        self,
        transform: torch.Tensor | None,
        mean: torch.Tensor | None,
        centroids: torch.Tensor,
        centroid_scale: torch.Tensor,
    ):
        super().__init__()
        kind = None if transform is None else "diagonal" if transform.dim() == 2 else "matrix"
        self.kind = kind
        self.centroids = torch.nn.Parameter(centroids.float() * centroid_scale.view(-1, 1, 1, 1))
        size = self.centroids.detach().square().sum(1).mean((1, 2)).sqrt().unsqueeze(-1)
        if kind == "diagonal":
            self.log_scale = torch.nn.Parameter(-transform.log())
            size = size / transform
        elif kind == "matrix":
            self.register_buffer("first_matrix", transform.clone())
            self.register_buffer("first_inverse", torch.linalg.inv(transform.double()).float())
            self.turn = torch.nn.Parameter(torch.zeros_like(transform))
            size = size * self.first_inverse.norm(dim=1)
        self.register_buffer("first_mean", None if mean is None else mean.clone())
        self.register_buffer("mean_unit", None if mean is None else size.expand_as(mean).clone())
        self.mean_shift = None if mean is None else torch.nn.Parameter(torch.zeros_like(mean))

    def mean(self) -> torch.Tensor | None:
        """Return the current mean, float32 `[Hkv, D]`, or None."""
        return None if self.first_mean is None else self.first_mean + self.mean_shift * self.mean_unit

    def transforms(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the current transform (without gradient) and its inverse, both of the shape that was given."""
        if self.kind is None:
            return None, None
        if self.kind == "diagonal":
            return torch.exp(-self.log_scale.detach()), self.log_scale.exp()
        change = torch.eye(self.turn.shape[-1], device=self.turn.device) + self.turn
        with torch.no_grad():
            matrix = self.first_matrix @ torch.linalg.inv(change)
        return matrix, change @ self.first_inverse

    @torch.autocast("cuda", enabled=False)
    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return `states` `[B, Hkv, T, D]` after quantization, with the gradient of the identity towards `states`."""
        (transform, inverse), mean = self.transforms(), self.mean()
        vectors = apply_transform(states.detach(), transform, None if mean is None else mean.detach())
        centroids = self._rounded_centroids()
        restored = invert_transform(decode(encode(vectors, centroids.detach()), centroids), inverse, mean)
        return restored.to(states.dtype) + (states - states.detach())

    @torch.no_grad()
    def parts(self) -> tuple[torch.Tensor | None, ...]:
        """Return mean, transform, inverse, int8 centroids and centroid scale as a file gives them back.

        A file keeps the inverse of a diagonal transform, and a full transform with 11 bits; the other one is derived.
        """
        transform, inverse = self.transforms()
        if self.kind == "diagonal":
            transform = 1.0 / inverse
        elif self.kind == "matrix":
            transform = rounded_matrix(transform)
            inverse = torch.linalg.inv(transform.double()).float()
        return self.mean(), transform, inverse, *round_to_int8(self.centroids)

    def _rounded_centroids(self) -> torch.Tensor:
        """Return the centroids `[Hkv, n, 2**b, d]` as int8 times a scale, with the gradient of the identity."""
        if not self.centroids.requires_grad:
            return self.centroids
        codes, scale = round_to_int8(self.centroids)
        return self.centroids + (codes.float() * scale.view(-1, 1, 1, 1) - self.centroids).detach()
