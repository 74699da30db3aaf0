# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""METHOD.md sections 1 and 2 in float64: transforms, nearest centroids, and which codes float32 may choose.

Part of the method model (method_model.py says how the parts fit). Shares no code with the package: numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


EPS = 2.0**-23
"""Distance from 1 to the next float32: twice the largest relative error of one rounding."""


def hadamard(dim: int) -> np.ndarray:
    """Return the block Walsh-Hadamard matrix `[dim, dim]` by its sign rule (-1)**popcount(i & j), float64."""
    block = dim & -dim
    sign = np.array([[(-1) ** (i & j).bit_count() for j in range(block)] for i in range(block)], dtype=np.float64)
    return np.kron(np.eye(dim // block), sign / np.sqrt(block))


class Choice(NamedTuple):
    """The codes of some vectors.

    Args:
        vectors: float64 `[T, D]`, the sums of the nearest centroids, in the transformed space.
        doubtful: (token, sub-vector) -> every sum of centroids that float32 arithmetic may find nearest, `[m, d]` with
            `m > 1`. Sub-vectors that are not named have one nearest centroid, whatever rounds.
    """

    vectors: np.ndarray
    doubtful: dict[tuple[int, int], np.ndarray]


@dataclass(frozen=True)
class Side:
    """The keys' or the values' half of one layer's codebook, in float64. `H` key/value heads, head size `D`.

    Args:
        mean: `[H, D]`, subtracted before the transform (mu; zeros where there is none).
        forward: `[H, D, D]`, the transform of row vectors: `diag(1 / lambda) H`, a full matrix K, or the identity.
        inverse: `[H, D, D]`, its inverse. Queries are multiplied by the inverse's transpose.
        centroids: `[H, n, C, d]`, integers.
        scale: `[H]`, the size of a centroid's unit.
    """

    mean: np.ndarray
    forward: np.ndarray
    inverse: np.ndarray
    centroids: np.ndarray
    scale: np.ndarray

    @classmethod
    def build(cls, mean, smooth_scale, matrix, centroids, scale) -> Side:
        """Return a side from arrays as a codebook stores them.

        Args:
            mean: `[H, D]` or None.
            smooth_scale: lambda, `[H, D]`, or None.
            matrix: K, `[H, D, D]`, or None; without both the transform is the identity.
            centroids: integers `[H, n, C, d]`.
            scale: `[H]`.
        """
        centroids, scale = np.asarray(centroids, np.float64), np.asarray(scale, np.float64)
        if smooth_scale is not None:
            smooth_scale = np.asarray(smooth_scale, np.float64)
            rotation = hadamard(smooth_scale.shape[1])
            forward = rotation / smooth_scale[:, :, None]
            inverse = rotation * smooth_scale[:, None, :]
        elif matrix is not None:
            forward = np.asarray(matrix, np.float64)
            inverse = np.linalg.inv(forward)
        else:
            dim = np.asarray(mean).shape[1] if mean is not None else None
            if dim is None:
                raise ValueError("A side without mean and transform does not say its head size; give a zero mean.")
            forward = inverse = np.broadcast_to(np.eye(dim), (len(scale), dim, dim))
        mean = np.zeros(forward.shape[:2]) if mean is None else np.asarray(mean, np.float64)
        return cls(mean, forward, inverse, centroids, scale)

    def transformed(self, vectors: np.ndarray, head: int) -> tuple[np.ndarray, np.ndarray]:
        """Return `(x - mu) F` of vectors `[T, D]` and a bound on a float32 evaluation's error, both `[T, D]`.

        A sum of D products errs by at most D roundings of the sum of absolute products; subtraction, reciprocal,
        product and the stored matrix add six.
        """
        exact = (vectors - self.mean[head]) @ self.forward[head]
        absolute = (np.abs(vectors) + np.abs(self.mean[head])) @ np.abs(self.forward[head])
        return exact, EPS * (vectors.shape[1] + 6) * absolute

    def encode(self, vectors: np.ndarray, head: int) -> Choice:
        """Return the codes of vectors `[T, D]` (equation 2), sub-vector by sub-vector."""
        tokens, dim = vectors.shape
        _, levels, _, sub = self.centroids.shape
        exact, error = self.transformed(vectors, head)
        exact, error = exact / self.scale[head], error / self.scale[head]
        units = exact.reshape(-1, sub)
        errors = (error + EPS * np.abs(exact)).reshape(-1, sub)
        best, allowed = self._nearest(units, errors, head, 0)
        chosen = self.centroids[head, 0][best]
        choices = [[(code,) for code in codes] for codes in allowed]
        if levels == 2:
            rest_errors = errors + EPS * (np.abs(units) + np.abs(chosen))
            second, allowed = self._nearest(units - chosen, rest_errors, head, 1)
            chosen = chosen + self.centroids[head, 1][second]
            for index, codes in enumerate(choices):
                if len(codes) == 1:
                    choices[index] = [(codes[0][0], code) for code in allowed[index]]
                    continue
                pairs = []
                for (first,) in codes:
                    own = self.centroids[head, 0][first]
                    rest = (units[index] - own)[None]
                    _, later = self._nearest(
                        rest, (errors[index] + EPS * (np.abs(rest[0]) + np.abs(own)))[None], head, 1
                    )
                    pairs += [(first, code) for code in later[0]]
                choices[index] = pairs
        doubtful = {}
        for index, codes in enumerate(choices):
            if len(codes) > 1:
                sums = [sum(self.centroids[head, level][code] for level, code in enumerate(pair)) for pair in codes]
                doubtful[divmod(index, dim // sub)] = np.stack(sums) * self.scale[head]
        return Choice((chosen * self.scale[head]).reshape(tokens, dim), doubtful)

    def _nearest(self, units, errors, head: int, level: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the nearest centroids of `units` `[N, d]`, and of each all those that rounding may make the nearest.

        The search compares `u . c - |c|**2 / 2`. A comparison may go the other way by the error of `u` times `|c|`,
        and by the `d + 4` roundings of either score.
        """
        table = self.centroids[head, level]
        half = 0.5 * (table**2).sum(1)
        scores = units @ table.T - half
        slack = errors @ np.abs(table).T + EPS * (units.shape[1] + 4) * (np.abs(units) @ np.abs(table).T + half)
        best = scores.argmax(1)
        rows = np.arange(len(units))
        near = scores + slack >= (scores[rows, best] - slack[rows, best])[:, None]
        return best, [np.flatnonzero(row) for row in near] if (near.sum(1) > 1).any() else [[code] for code in best]

    def decoded(self, vectors: np.ndarray, head: int) -> tuple[np.ndarray, np.ndarray]:
        """Return codes' vectors `[T, D]` in the model's own space and a bound on a float32 evaluation's error."""
        exact = vectors @ self.inverse[head] + self.mean[head]
        absolute = np.abs(vectors) @ np.abs(self.inverse[head]) + np.abs(self.mean[head])
        return exact, EPS * (vectors.shape[1] + 8) * absolute

    def settle(self, choice: Choice, read: np.ndarray, head: int) -> np.ndarray:
        """Return the vectors `[T, D]` of `choice`, doubtful sub-vectors replaced by the alternative that was taken.

        Args:
            choice: what `encode` returned.
            read: float64 `[T, D]`, the same tokens as the cache returns them, in the model's own space.
            head: key/value head.
        """
        vectors = choice.vectors.copy()
        sub = self.centroids.shape[3]
        seen = self.transformed(read, head)[0]
        for (token, place), sums in choice.doubtful.items():
            part = slice(place * sub, (place + 1) * sub)
            vectors[token, part] = sums[np.abs(sums - seen[token, part]).sum(1).argmin()]
        return vectors


class LayerCodes(NamedTuple):
    """One layer's codebook: the keys' side and the values' side."""

    key: Side
    value: Side
