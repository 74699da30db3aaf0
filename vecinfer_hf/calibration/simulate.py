# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Attention as it will be with a quantized cache, in one differentiable pass over a whole text.

Owns the simulation: every token sees exact sinks and an exact window and quantized keys and values for everything
else, which is what token-by-token generation does. Measured figures come from the real cache, not from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ..cache.sinks import choose_sinks
from ..config import SMALL_VALUES
from ..ops.types import LayerCodebook
from ..quantization.kmeans import round_to_int8
from ..quantization.transforms import hadamard_matrix, rounded_matrix
from .attention import plain_attention


_SCORES = 1 << 28


class VectorSimulator(torch.nn.Module):
    """Quantizes and restores one side (keys or values) of a layer; the gradient passes straight through the codes.

    Trained are the centroids, a mean if there is one (`mean_shift`, in units of each channel's restored size), and the
    transform: of a diagonal one the inverse scale's logarithm `log_scale`, of a full matrix the relative change `turn`
    of its inverse, so that `inverse = (I + turn) inverse_0`. What is trained is what restores; what quantizes follows
    as its inverse.

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
        """Return the mean as it is now, float32 `[Hkv, D]`, or None."""
        return None if self.first_mean is None else self.first_mean + self.mean_shift * self.mean_unit

    def matrices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the full matrix (without gradient) and its inverse as they are now, float32 `[Hkv, D, D]`."""
        change = torch.eye(self.turn.shape[-1], device=self.turn.device) + self.turn
        with torch.no_grad():
            matrix = self.first_matrix @ torch.linalg.inv(change)
        return matrix, change @ self.first_inverse

    @torch.autocast("cuda", enabled=False)
    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return `states` `[B, Hkv, T, D]` after quantization, with the gradient of the identity towards `states`."""
        vectors, mean = states.detach().float(), self.mean()
        if mean is not None:
            vectors = vectors - mean.detach().unsqueeze(-2)
        if self.kind == "diagonal":
            rotation = hadamard_matrix(vectors.shape[-1]).to(vectors.device)
            vectors = (vectors * torch.exp(-self.log_scale.detach()).unsqueeze(-2)) @ rotation
        elif self.kind == "matrix":
            matrix, inverse = self.matrices()
            vectors = vectors @ matrix
        restored = self._quantized(vectors)
        if self.kind == "diagonal":
            restored = (restored @ rotation) * self.log_scale.exp().unsqueeze(-2)
        elif self.kind == "matrix":
            restored = restored @ inverse
        if mean is not None:
            restored = restored + mean.unsqueeze(-2)
        return restored.to(states.dtype) + (states - states.detach())

    def _quantized(self, vectors: torch.Tensor) -> torch.Tensor:
        batch, heads, tokens, head_dim = vectors.shape
        rounded = self._rounded_centroids()
        levels, size, dim = rounded.shape[1:]
        rest = vectors.transpose(0, 1).reshape(heads, -1, dim)
        offsets = torch.arange(heads, device=vectors.device).unsqueeze(1) * size
        total = None
        for level in range(levels):
            table = rounded[:, level]
            index = (_nearest(rest, table.detach()) + offsets).flatten()
            part = table.reshape(-1, dim).index_select(0, index).view(rest.shape)
            total = part if total is None else total + part
            if level + 1 < levels:
                rest = rest - part.detach()
        return total.view(heads, batch, tokens, head_dim).transpose(0, 1)

    def _rounded_centroids(self) -> torch.Tensor:
        """The centroids as they will be stored, int8 times a scale, with the gradient of the identity."""
        if not self.centroids.requires_grad:
            return self.centroids
        codes, scale = round_to_int8(self.centroids)
        return self.centroids + (codes.float() * scale.view(-1, 1, 1, 1) - self.centroids).detach()


class LayerSimulator(torch.nn.Module):
    """Both sides of one layer; a side may be switched off, and is then exact.

    Args:
        codebook: where the parameters start.
        sides: which of "key" and "value" are quantized.
    """

    def __init__(self, codebook: LayerCodebook, sides: tuple[str, ...] = ("key", "value")):
        super().__init__()
        self.key = self.value = None
        if "key" in sides:
            self.key = VectorSimulator(
                codebook.key_transform, codebook.key_mean, codebook.key_centroids, codebook.key_centroid_scale
            )
        if "value" in sides:
            self.value = VectorSimulator(
                codebook.value_transform, codebook.value_mean, codebook.value_centroids, codebook.value_centroid_scale
            )

    @torch.no_grad()
    def to_codebook(self) -> LayerCodebook:
        """Return the layer's codebook with the parameters as they are now, on the CPU."""
        parts = []
        for side in (self.key, self.value):
            transform = inverse = None
            if side.kind == "diagonal":
                transform, inverse = torch.exp(-side.log_scale), side.log_scale.exp()
            elif side.kind == "matrix":
                transform = rounded_matrix(side.matrices()[0])
                inverse = torch.linalg.inv(transform.double()).float()
                if side is self.key:
                    inverse = inverse.transpose(-1, -2).contiguous()
            parts += [side.mean(), transform, inverse, *round_to_int8(side.centroids)]
        return LayerCodebook(*(None if part is None else part.detach().cpu() for part in parts))


def simulated_attention(
    layers: Mapping[int, LayerSimulator],
    sink_length: int,
    residual_length: int,
    chunk_length: int = 1,
    prompt_length: int = 0,
    sink_choice: str = SMALL_VALUES,
) -> Callable:
    """Return an attention function for `attention_function`: quantized in `layers`, exact in all others.

    Args:
        layers: layer index -> simulator.
        sink_length: early tokens that stay exact.
        residual_length: recent tokens that stay exact, the query's own included.
        chunk_length: tokens appended per call; more than 1 shortens the window for the first of them, as
            `vecinfer evaluate` does.
        prompt_length: first tokens that attend to each other exactly, as a prompt given in one call does.
        sink_choice: see `VecInferConfig.sink_choice`; the first call brings all tokens it looks at. In a real cache a
            sink that is still recent leaves its place in the window to an older token, here it does not: texts hardly
            longer than the window lose more here.
    """

    def coded(module, query, key, value):
        layer = layers.get(module.layer_idx)
        if layer is None:
            return None
        return key if layer.key is None else layer.key(key), value if layer.value is None else layer.value(value)

    return doubled_attention(coded, sink_length, residual_length, chunk_length, prompt_length, sink_choice)


def with_exact_sinks(
    exact: tuple[torch.Tensor, torch.Tensor],
    coded: tuple[torch.Tensor, torch.Tensor],
    sink_length: int,
    sink_choice: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return coded keys and values `[B, Hkv, T, D]` with the sinks of the exact ones in their places."""
    chosen = choose_sinks(exact[1], sink_length, sink_choice)
    sink = torch.nn.functional.pad(chosen, (0, exact[1].shape[2] - chosen.shape[2])).unsqueeze(-1)
    return tuple(torch.where(sink, own, other) for own, other in zip(exact, coded, strict=True))


def doubled_attention(
    coded: Callable,
    sink_length: int,
    residual_length: int,
    chunk_length: int = 1,
    prompt_length: int = 0,
    sink_choice: str = SMALL_VALUES,
) -> Callable:
    """Return an attention function over exact and coded states at once: each query reads every token in one form.

    Args:
        coded: `(module, query, key, value)` -> the keys and values that stand for the exact ones where a token is
            neither sink nor in the window, or None to leave the layer as it is.
        sink_length: early tokens that stay exact.
        residual_length: recent tokens that stay exact, the query's own included.
        chunk_length: see `simulated_attention`.
        prompt_length: likewise.
        sink_choice: likewise.
    """
    masks: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}

    def split(query: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        tokens = query.shape[2]
        key = (tokens, query.device, None if mask is None else id(mask))
        if key not in masks:
            index = torch.arange(tokens, device=query.device)
            causal = index.unsqueeze(0) <= index.unsqueeze(1)
            if mask is not None:
                causal = causal & mask[0, 0, :, :tokens]
            last = (index // chunk_length + 1) * chunk_length - 1
            near = index.unsqueeze(0) > last.unsqueeze(1) - residual_length
            near = near | (index < prompt_length).unsqueeze(1)
            masks.clear()
            # `mask` is held so that its id is not given to another one.
            masks[key] = torch.cat([causal & near, causal & ~near], dim=1)[None, None], mask
        return masks[key][0]

    def attention(module, query, key, value, attention_mask, scaling, **kwargs):
        states = coded(module, query, key, value)
        if states is None:
            return plain_attention(module, query, key, value, attention_mask, scaling, **kwargs)
        states = with_exact_sinks((key, value), states, sink_length, sink_choice)
        keys, values = torch.cat([key, states[0]], dim=2), torch.cat([value, states[1]], dim=2)
        return plain_attention(module, query, keys, values, split(query, attention_mask), scaling, **kwargs)

    return attention


def _nearest(vectors: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Index of the nearest row of `table` `[Hkv, K, d]` for `vectors` `[Hkv, N, d]`, without gradient: `[Hkv, N]`."""
    with torch.no_grad():
        bias = table.square().sum(-1).mul(-0.5).unsqueeze(1)
        index = torch.empty(vectors.shape[:2], dtype=torch.int64, device=vectors.device)
        step = max(1, (_SCORES if vectors.is_cuda else 1 << 20) // (table.shape[0] * table.shape[1]))
        for start in range(0, vectors.shape[1], step):
            part = slice(start, start + step)
            index[:, part] = torch.baddbmm(bias, vectors[:, part], table.transpose(1, 2)).max(-1)[1]
        return index
