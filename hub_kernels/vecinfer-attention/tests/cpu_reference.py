# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Random calls of decode_attention on a CPU, keys and values of different head sizes and pages included.

Owns the construction and its float64 answer, from oracle.py's parts; checks nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cases
import oracle
import torch


@dataclass
class Call:
    """One call: rows of `lengths` tokens whose codes are random; everything else as in decode_cases.Cache."""

    lengths: list[int]
    heads: int = 2
    group: int = 3
    query_tokens: int = 1
    key_dim: int = 64
    value_dim: int = 64
    key: str = "d4b8"
    value: str = "d4b8"
    dtype: torch.dtype = torch.float32
    sinks: int = 4
    slots: int = 32
    transform: str = "diagonal"
    value_transform: str | None = None
    means: bool = False
    softcap: float = 0.0
    sink_logits: bool = False
    query_size: float = 1.0
    tiles_per_page: int = 0  # 0: contiguous
    quantized: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.quantized = self.quantized or [max(0, length - self.sinks - self.slots) for length in self.lengths]
        keys = cases.random_codebook(self.heads, self.key_dim, self.key, "d4b8", self.transform, None, self.means)
        values = cases.random_codebook(
            self.heads, self.value_dim, "d4b8", self.value, "diagonal", self.value_transform, self.means
        )
        parts = ("value_mean", "value_transform", "output_transform", "value_centroids", "value_centroid_scale")
        self.codebook = keys._replace(**{name: getattr(values, name) for name in parts})
        self.formats = cases.formats(self.codebook)
        self.key_bytes = self.formats[0].num_codes * oracle.plane_bytes(self.formats[0], self.key_dim, "key")
        self.value_bytes = self.formats[1].num_codes * oracle.plane_bytes(self.formats[1], self.value_dim, "value")
        batch, heads = len(self.lengths), self.heads
        tiles = -(-max(self.quantized) // 32) + 1
        self.codes = self._bytes(batch, heads, tiles)
        self.exact = [
            (torch.randn(batch, heads, count, dim) * 0.7).to(self.dtype)
            for count in (self.sinks, self.slots)
            for dim in (self.key_dim, self.value_dim)
        ]
        query = torch.randn(batch, self.query_tokens, heads * self.group, self.key_dim) * self.query_size
        self.query = query.to(self.dtype).transpose(1, 2)
        self.extra_logits = torch.randn(heads * self.group) * 2 if self.sink_logits else None
        self.softmax_scale = self.key_dim**-0.5

    def _bytes(self, *shape: int) -> torch.Tensor:
        return torch.randint(0, 256, (*shape, self.key_bytes + self.value_bytes), dtype=torch.uint8)

    def storage(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return codes and block table: contiguous, or the same tiles dealt out to shuffled pages."""
        if not self.tiles_per_page:
            return self.codes, None
        batch, heads, tiles, size = self.codes.shape
        per_row = -(-tiles // self.tiles_per_page)
        order = torch.randperm(batch * per_row + 3)[: batch * per_row].view(batch, per_row)
        pages = self._bytes(batch * per_row + 3, heads, self.tiles_per_page)
        for row in range(batch):
            for tile in range(tiles):
                page = order[row, tile // self.tiles_per_page]
                pages[page, :, tile % self.tiles_per_page] = self.codes[row, :, tile]
        return pages, order.to(torch.int32)

    def run(self, kernel, num_splits: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the kernel makes of it."""
        sink_keys, sink_values, ring_keys, ring_values = self.exact
        return kernel.decode_attention(
            self.query, *self.storage(), sink_keys, sink_values, ring_keys, ring_values,
            cases.int32(*self.lengths), cases.int32(*self.quantized), *cases.read_args(self.codebook),
            self.softmax_scale, self.softcap, self.extra_logits, num_splits,
        )  # fmt: skip

    def side(self, row: int, side: str) -> torch.Tensor:
        """Return a row's keys or values in its own order, float64 `[Hkv, N, D]`."""
        book, index = self.codebook, 0 if side == "key" else 1
        dim, fmt = (self.key_dim, self.value_dim)[index], self.formats[index]
        start = 0 if side == "key" else self.key_bytes
        tiles = self.codes[row : row + 1, ..., start : start + (self.key_bytes, self.value_bytes)[index]]
        # Alone in its tiles, a side is the first of two to the oracle if it is the keys', else the second.
        if side == "key":
            codes = oracle.read_codes(tiles, fmt, fmt, dim, "key")
        else:
            front = torch.zeros(*tiles.shape[:-1], fmt.num_codes * oracle.plane_bytes(fmt, dim, "key"))
            codes = oracle.read_codes(torch.cat([front.to(torch.uint8), tiles], -1), fmt, fmt, dim, "value")
        weight = book.query_transform if side == "key" else book.output_transform
        if side == "key" and weight.dim() == 3:
            weight = weight.transpose(1, 2)
        centroids, scale = getattr(book, f"{side}_centroids"), getattr(book, f"{side}_centroid_scale")
        length, coded = self.lengths[row], self.quantized[row]
        vectors = oracle.reconstruct(codes[:, :, :coded], centroids, scale)
        old = oracle.backward(vectors, weight, getattr(book, f"{side}_mean"))[0]
        slots = [n % self.slots for n in range(coded, max(coded, length - self.sinks))]
        sinks, ring = self.exact[index], self.exact[2 + index]
        return torch.cat([sinks[row, :, : min(length, self.sinks)].double(), old, ring[row][:, slots].double()], 1)

    def expected(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the oracle's output `[Hq, Tq, Dv]` and log-sum-exp `[Hq, Tq]` of a row."""
        keys, values = self.side(row, "key"), self.side(row, "value")
        return oracle.attention(self.query[row], keys, values, self.softmax_scale, self.softcap, self.extra_logits)

    def plain(self, row: int) -> torch.Tensor:
        """Return what torch gets with keys, values and weights in the cache's dtype and sums in float32."""
        sides = (self.side(row, side).to(self.dtype).float() for side in ("key", "value"))
        keys, values = (part.repeat_interleave(self.group, 0) for part in sides)
        scores = torch.einsum("hqd,hnd->hqn", self.query[row].float(), keys) * self.softmax_scale
        if self.softcap:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        last = torch.arange(scores.shape[2] - scores.shape[1], scores.shape[2])
        scores = scores.masked_fill(torch.arange(scores.shape[2]) > last[:, None], -torch.inf)
        if self.extra_logits is not None:
            scores = torch.cat([scores, self.extra_logits[:, None, None].expand(-1, scores.shape[1], 1)], -1)
            values = torch.cat([values, torch.zeros_like(values[:, :1])], 1)
        weights = scores.softmax(-1).to(self.dtype).float()
        return torch.einsum("hqn,hnd->hqd", weights, values).to(self.dtype)
