# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Code formats: how many bits a sub-vector takes, and what `key_bits=2` means.

Owns the naming of formats and the count of their bits; packing.py owns where the bits lie.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


SUBVECTOR_DIMS = (2, 4, 8)
BITS_PER_CODE = (8, 10, 12)
MAX_CODES = 2


@dataclass(frozen=True)
class CodeFormat:
    """How one sub-vector is stored: `num_codes` codes of `bits_per_code` bits for `subvector_dim` elements.

    Several codes are additive: their centroids are summed (residual quantization). The name is `d4b8` for one
    8-bit code over 4 elements, `d4b8x2` for two.

    Args:
        subvector_dim: elements per sub-vector: 2, 4 or 8.
        bits_per_code: 8, 10 or 12; a codebook has `2**bits_per_code` centroids.
        num_codes: 1 or 2.

    Raises:
        ValueError: for a value outside these sets.
    """

    subvector_dim: int
    bits_per_code: int
    num_codes: int = 1

    def __post_init__(self):
        for name, value, allowed in (
            ("subvector_dim", self.subvector_dim, SUBVECTOR_DIMS),
            ("bits_per_code", self.bits_per_code, BITS_PER_CODE),
            ("num_codes", self.num_codes, tuple(range(1, MAX_CODES + 1))),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value}, but a code format needs one of {allowed}.")

    @property
    def name(self) -> str:
        """The format's name, e.g. `d4b8x2`."""
        return f"d{self.subvector_dim}b{self.bits_per_code}" + (f"x{self.num_codes}" if self.num_codes > 1 else "")

    @property
    def bits_per_element(self) -> float:
        """Bits stored per key or value element."""
        return self.bits_per_code * self.num_codes / self.subvector_dim

    @property
    def codebook_size(self) -> int:
        """Centroids per code."""
        return 2**self.bits_per_code

    def num_subvectors(self, head_dim: int) -> int:
        """Sub-vectors of a head of `head_dim` elements.

        Raises:
            ValueError: if `head_dim` is not divisible by `subvector_dim`.
        """
        if head_dim % self.subvector_dim:
            raise ValueError(
                f"head_dim {head_dim} is not divisible by the subvector_dim {self.subvector_dim} of format "
                f"{self.name}; choose another number of bits for this model."
            )
        return head_dim // self.subvector_dim


FORMATS_BY_BITS = {
    4.0: CodeFormat(4, 8, 2),
    2.0: CodeFormat(4, 8),
    1.5: CodeFormat(8, 12),
    1.25: CodeFormat(8, 10),
    1.0: CodeFormat(8, 8),
}


def parse_format(bits: float | str) -> CodeFormat:
    """Return the format that `bits` stands for.

    Args:
        bits: bits per element (4, 2, 1.5, 1.25 or 1) or a format name such as "d2b8" (the paper's 4 bits).

    Raises:
        ValueError: for anything else, naming what is possible.
    """
    if isinstance(bits, str):
        match = re.fullmatch(r"d([0-9]{1,2})b([0-9]{1,2})(?:x([0-9]{1,2}))?", bits)
        if match:
            return CodeFormat(int(match[1]), int(match[2]), int(match[3] or 1))
        try:
            bits = float(bits)
        except ValueError:
            pass
    if isinstance(bits, (int, float)) and not isinstance(bits, bool) and bits in FORMATS_BY_BITS:
        return FORMATS_BY_BITS[bits]
    raise ValueError(
        f"{bits!r} is not a number of bits per element that can be stored; use one of "
        f"{sorted(FORMATS_BY_BITS, reverse=True)} or a format name such as 'd2b8' (8-bit codes over 2 elements)."
    )


def implied_format(centroids_shape: Sequence[int]) -> CodeFormat:
    """Return the format of centroids of shape `[Hkv, num_codes, 2**bits_per_code, subvector_dim]`.

    Raises:
        ValueError: if no format has such centroids.
    """
    _, num_codes, size, dim = centroids_shape
    fmt = CodeFormat(dim, size.bit_length() - 1, num_codes)
    if size != fmt.codebook_size:
        sizes = [2**bits for bits in BITS_PER_CODE]
        raise ValueError(f"codebook_size is {size}, but a code format needs one of {sizes}.")
    return fmt


class MeanBits(NamedTuple):
    """Mean bits per element of coded tokens: of keys, of values, and of both together."""

    key_bits: float
    value_bits: float
    bits_per_element: float


def mean_bits(formats: Iterable[tuple[CodeFormat, CodeFormat]]) -> MeanBits:
    """Return the mean bits of layers with these key and value formats, every layer and side with the same weight.

    Raises:
        ValueError: if there are no layers.
    """
    pairs = [(key.bits_per_element, value.bits_per_element) for key, value in formats]
    if not pairs:
        raise ValueError("No layer has codes, so there are no bits to average; give at least one pair of formats.")
    key_bits, value_bits = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
    return MeanBits(key_bits, value_bits, (key_bits + value_bits) / 2)
