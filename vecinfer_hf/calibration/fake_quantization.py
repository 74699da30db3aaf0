# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Attention over fake-quantized keys and values: what a quantized cache computes, in one differentiable pass.

Every query reads full-precision sinks, a full-precision window, and quantized keys and values for all other tokens,
as token-by-token generation does. Owns the masks and the two sides of a layer; quantization/fake_quant.py owns one
side. Reported figures come from the real cache, which tests hold equal to this pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ..cache.sinks import choose_sinks
from ..config import SMALL_VALUES
from ..ops.types import LayerCodebook
from ..quantization.fake_quant import FakeQuantizer, fake_quantize
from ..quantization.transforms import key_inverse
from .attention import plain_attention, storing_layer


def fake_quantized_states(
    key_states: torch.Tensor, value_states: torch.Tensor, codebook: LayerCodebook
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys `[B, Hkv, T, Dk]` and values `[B, Hkv, T, Dv]` after quantization, float32, same shapes."""
    keys = fake_quantize(
        key_states,
        codebook.key_transform,
        key_inverse(codebook.query_transform),
        codebook.key_mean,
        codebook.key_centroids,
        codebook.key_centroid_scale,
    )
    values = fake_quantize(
        value_states,
        codebook.value_transform,
        codebook.output_transform,
        codebook.value_mean,
        codebook.value_centroids,
        codebook.value_centroid_scale,
    )
    return keys, values


class LayerFakeQuantizer(torch.nn.Module):
    """Fake quantization of both sides of one layer; a side may be left out and then stays in full precision.

    Args:
        codebook: where the parameters start.
        sides: which of "key" and "value" are quantized.
    """

    def __init__(self, codebook: LayerCodebook, sides: tuple[str, ...] = ("key", "value")):
        super().__init__()
        self.key = self.value = None
        if "key" in sides:
            self.key = FakeQuantizer(
                codebook.key_transform, codebook.key_mean, codebook.key_centroids, codebook.key_centroid_scale
            )
        if "value" in sides:
            self.value = FakeQuantizer(
                codebook.value_transform, codebook.value_mean, codebook.value_centroids, codebook.value_centroid_scale
            )

    def to_codebook(self) -> LayerCodebook:
        """Return the layer's codebook with the current parameters, on the CPU; both sides must be there."""
        mean, transform, inverse, *centroids = self.key.parts()
        query_transform = inverse.transpose(-1, -2).contiguous() if inverse.dim() == 3 else inverse
        parts = mean, transform, query_transform, *centroids, *self.value.parts()
        return LayerCodebook(*(None if part is None else part.detach().cpu() for part in parts))


def fake_quantized_attention(
    layers: Mapping[int, torch.nn.Module],
    sink_length: int,
    residual_length: int,
    chunk_length: int = 1,
    prompt_length: int = 0,
    sink_choice: str = SMALL_VALUES,
) -> Callable:
    """Return an attention function for `attention_function`: quantized in `layers`, full precision in all others.

    Args:
        layers: layer index -> `LayerFakeQuantizer`, or a module with the same attributes `key` and `value`.
        sink_length: early tokens in full precision.
        residual_length: recent tokens in full precision, the query's own included.
        chunk_length: tokens appended per call; more than 1 shortens the window for the first of them, as
            `vecinfer evaluate` does.
        prompt_length: first tokens that attend to each other in full precision, as a prompt given in one call does.
        sink_choice: see `VecInferConfig.sink_choice`; the first call brings all tokens it looks at. In a real cache a
            sink that is still recent leaves its place in the window to an older token, here it does not: texts hardly
            longer than the window lose more here.
    """

    def quantized(module, query, key, value):
        layer = layers.get(storing_layer(module))
        if layer is None:
            return None
        return key if layer.key is None else layer.key(key), value if layer.value is None else layer.value(value)

    return doubled_attention(quantized, sink_length, residual_length, chunk_length, prompt_length, sink_choice)


def with_full_precision_sinks(
    full_precision: tuple[torch.Tensor, torch.Tensor],
    quantized: tuple[torch.Tensor, torch.Tensor],
    sink_length: int,
    sink_choice: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the quantized keys and values `[B, Hkv, T, D]` with those in full precision at the sinks' places."""
    chosen = choose_sinks(full_precision[1], sink_length, sink_choice)
    sink = torch.nn.functional.pad(chosen, (0, full_precision[1].shape[2] - chosen.shape[2])).unsqueeze(-1)
    return tuple(torch.where(sink, own, other) for own, other in zip(full_precision, quantized, strict=True))


def doubled_attention(
    quantized: Callable,
    sink_length: int,
    residual_length: int,
    chunk_length: int = 1,
    prompt_length: int = 0,
    sink_choice: str = SMALL_VALUES,
) -> Callable:
    """Return an attention function over two forms of every token, of which each query reads one.

        keys:  full precision 0 .. T-1 | quantized 0 .. T-1   (a sink is in full precision in both halves)
        reads: the query's window      | all older tokens

    Args:
        quantized: `(module, query [B, Hq, T, D], key [B, Hkv, T, D], value [B, Hkv, T, D])` -> the keys and values
            that stand for the given ones outside sinks and window, or None to leave the layer in full precision.
        sink_length: early tokens in full precision.
        residual_length: recent tokens in full precision, the query's own included.
        chunk_length: see `fake_quantized_attention`.
        prompt_length: likewise.
        sink_choice: likewise.
    """
    masks: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}

    def split(query: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return which of the 2 T keys each query of `[B, Hq, T, D]` reads, bool `[1, 1, T, 2 T]`."""
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
        states = quantized(module, query, key, value)
        if states is None:
            return plain_attention(module, query, key, value, attention_mask, scaling, **kwargs)
        states = with_full_precision_sinks((key, value), states, sink_length, sink_choice)
        keys, values = torch.cat([key, states[0]], dim=2), torch.cat([value, states[1]], dim=2)
        return plain_attention(module, query, keys, values, split(query, attention_mask), scaling, **kwargs)

    return attention
