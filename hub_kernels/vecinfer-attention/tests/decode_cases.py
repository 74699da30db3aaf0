# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Random caches for decode attention, and what the oracle and plain 16-bit torch make of them. Checks nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import cases
import oracle
import torch


@dataclass
class Cache:
    """A cache of `lengths` tokens per row: all but the sinks and the ring are random codes."""

    lengths: list[int]
    heads: int = 2
    group: int = 4
    query_tokens: int = 1
    head_dim: int = 128
    key: str = "d4b8"
    value: str = "d4b8"
    dtype: torch.dtype = torch.bfloat16
    sinks: int = 4
    residual_length: int = 128
    ring: int | None = None  # tokens really in the ring, less than residual_length after a crop
    transform: str = "diagonal"
    value_transform: str | None = None
    means: bool = False
    softcap: float = 0.0
    sink_logits: bool = False
    query_size: float = 1.0
    tiles: int | None = None
    quantized: list[int] = field(default_factory=list)

    def __post_init__(self):
        ring = self.residual_length if self.ring is None else self.ring
        self.quantized = self.quantized or [max(0, length - self.sinks - ring) for length in self.lengths]
        self.codebook = cases.random_codebook(
            self.heads, self.head_dim, self.key, self.value, self.transform, self.value_transform, self.means
        )
        batch, heads, dim = len(self.lengths), self.heads, self.head_dim
        tiles = self.tiles or max(self.quantized) // 32 + 1
        self.codes = cases.random_codes(batch, heads, tiles, self.codebook, dim)
        exact = torch.randn(4, batch, heads, self.sinks + self.residual_length, dim, device=cases.DEVICE) * 0.7
        exact = exact.to(self.dtype)
        self.sink_keys, self.sink_values = exact[0, :, :, : self.sinks], exact[1, :, :, : self.sinks]
        self.ring_keys, self.ring_values = exact[2, :, :, self.sinks :], exact[3, :, :, self.sinks :]
        query = torch.randn(batch, self.query_tokens, heads * self.group, dim, device=cases.DEVICE)
        self.query = (query * self.query_size).to(self.dtype).transpose(1, 2)
        self.extra_logits = torch.randn(heads * self.group, device=cases.DEVICE) * 2 if self.sink_logits else None
        self.softmax_scale = dim**-0.5

    def run(self, kernel, num_splits: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the kernel makes of it, in memory that held NaN before."""
        for size in (2**8, 2**12, 2**16, 2**20, 2**22, 2**24):
            torch.full((size,), float("nan"), device=cases.DEVICE)
        return kernel.decode_attention(*self.arguments(num_splits))

    def arguments(self, num_splits: int = 0) -> tuple:
        """Return the operator's arguments in their order; the third is the block table."""
        return (
            self.query,
            self.codes,
            None,
            self.sink_keys,
            self.sink_values,
            self.ring_keys,
            self.ring_values,
            cases.int32(*self.lengths),
            cases.int32(*self.quantized),
            *cases.read_args(self.codebook),
            self.softmax_scale,
            self.softcap,
            self.extra_logits,
            num_splits,
        )

    def tokens(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of a row in its own order, float64 `[Hkv, N, D]`."""
        book = self.codebook
        length, coded = self.lengths[row], self.quantized[row]
        query_weight = book.query_transform
        if query_weight.dim() == 3:
            query_weight = query_weight.transpose(1, 2)
        sides = (
            ("key", book.key_centroids, book.key_centroid_scale, query_weight, book.key_mean),
            ("value", book.value_centroids, book.value_centroid_scale, book.output_transform, book.value_mean),
        )
        exact = ((self.sink_keys, self.ring_keys), (self.sink_values, self.ring_values))
        slots = [n % self.residual_length for n in range(coded, max(coded, length - self.sinks))]
        found = []
        for (side, centroids, scale, weight, mean), (sinks, ring) in zip(sides, exact, strict=True):
            tiles = self.codes[row : row + 1, :, : (coded + 31) // 32]
            codes = oracle.read_codes(tiles, *cases.formats(book), self.head_dim, side)[:, :, :coded]
            old = oracle.backward(oracle.reconstruct(codes, centroids, scale), weight, mean)[0]
            new = ring[row][:, slots].double()
            found.append(torch.cat([sinks[row, :, : min(length, self.sinks)].double(), old, new], 1))
        return found[0], found[1]

    def expected(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the oracle's output `[Hq, Tq, D]` and log-sum-exp `[Hq, Tq]` of a row."""
        keys, values = self.tokens(row)
        return oracle.attention(self.query[row], keys, values, self.softmax_scale, self.softcap, self.extra_logits)

    def plain(self, row: int) -> torch.Tensor:
        """Return what torch gets with keys, values and weights in the cache's dtype and sums in float32."""
        keys, values = (part.to(self.dtype).float().repeat_interleave(self.group, 0) for part in self.tokens(row))
        scores = torch.einsum("hqd,hnd->hqn", self.query[row].float(), keys) * self.softmax_scale
        if self.softcap:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        last = torch.arange(scores.shape[2] - scores.shape[1], scores.shape[2], device=scores.device)
        scores = scores.masked_fill(torch.arange(scores.shape[2], device=scores.device) > last[:, None], -torch.inf)
        if self.extra_logits is not None:
            extra = self.extra_logits[:, None, None].expand(-1, scores.shape[1], 1)
            scores = torch.cat([scores, extra], -1)
            values = torch.cat([values, torch.zeros_like(values[:, :1])], 1)
        weights = scores.softmax(-1).to(self.dtype).float()
        return torch.einsum("hqn,hnd->hqd", weights, values).to(self.dtype)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return |found - expected| / |expected|; NaN where found has one."""
    return ((found.double() - expected).norm() / expected.norm()).item()
