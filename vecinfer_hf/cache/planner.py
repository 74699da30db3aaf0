# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What fits: cache bytes per token and the longest context, computed from a model's config alone.

Owns the arithmetic, which the tests compare with caches that are really allocated. Nothing is measured here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer, LinearAttentionCacheLayerMixin

from ..codebook.sizes import bytes_per_token, layer_nbytes
from ..codebook.tensors import MATRIX, SMOOTH_SCALE, LayerForm, SideForm
from ..errors import UnsupportedModelError
from ..model_info import head_shapes, unsupported_reason
from ..model_info.probe import cache_of_copy, language_model
from ..quantization.formats import CodeFormat, mean_bits
from .default_layers import held_tensors
from .sinks import CANDIDATES


@dataclass(frozen=True)
class CachePlan:
    """Sizes of one kind of cache.

    Args:
        name: "stock" or the bits per element.
        bytes_per_token: bytes that one more token of one sequence takes.
        bytes_per_sequence: bytes of a sequence that do not grow: sinks, exact window, sliding layers' windows, states.
        bytes_fixed: bytes that do not depend on sequences: codebooks.
    """

    name: str
    bytes_per_token: float
    bytes_per_sequence: int
    bytes_fixed: int

    def nbytes(self, tokens: int, batch_size: int = 1) -> float:
        """Return the bytes of a cache of `batch_size` sequences of `tokens` tokens (longer than the window)."""
        return batch_size * (tokens * self.bytes_per_token + self.bytes_per_sequence) + self.bytes_fixed

    def longest_context(self, budget: float, batch_size: int = 1) -> int:
        """Return the tokens per sequence that fit into `budget` bytes, 0 if none."""
        rest = (budget - self.bytes_fixed) / batch_size - self.bytes_per_sequence
        return max(0, int(rest // self.bytes_per_token))

    def largest_batch(self, budget: float, tokens: int) -> int:
        """Return the sequences of `tokens` tokens that fit into `budget` bytes, 0 if none."""
        return max(0, int((budget - self.bytes_fixed) // (tokens * self.bytes_per_token + self.bytes_per_sequence)))


def _default_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Return the bytes of one row in the layers that do not grow: sliding windows and recurrent states.

    Their shapes are those of a copy without weights: MiMo-V2-Flash gives sliding layers other heads than its config.
    """
    model_class, inner = language_model(config)
    layers = DynamicCache(config=inner).layers
    if not any(isinstance(layer, (DynamicSlidingWindowLayer, LinearAttentionCacheLayerMixin)) for layer in layers):
        return 0
    if model_class is None:
        raise UnsupportedModelError(
            f"The sizes of some layers of {inner.model_type} are not known: transformers has no such language model."
        )
    total = 0
    for layer in cache_of_copy(model_class, inner, dtype).layers:
        if isinstance(layer, DynamicSlidingWindowLayer) and layer.is_initialized:
            # A sliding layer keeps one token less than its window.
            states: tuple[Any, Any] = layer.keys, layer.values
            elements = sum(side.shape[1] * side.shape[3] for side in states)
            total += (layer.sliding_window - 1) * elements * dtype.itemsize
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            total += sum(tensor.nbytes for tensor in held_tensors((layer.conv_states, layer.recurrent_states)))
    return total


def stock_plan(config: PreTrainedConfig, dtype: torch.dtype) -> CachePlan:
    """Return the sizes of the default cache of a model with this config."""
    per_token = sum(shape.elements for shape in head_shapes(config).values()) * dtype.itemsize
    return CachePlan("stock", per_token, _default_bytes(config, dtype), 0)


def vecinfer_plan(
    config: PreTrainedConfig,
    formats: list[tuple[CodeFormat, CodeFormat]],
    residual_length: int,
    sink_length: int,
    dtype: torch.dtype,
    matrices: bool = True,
) -> CachePlan:
    """Return the sizes of a VecInfer cache.

    Args:
        config: the model's config.
        formats: key and value format of each quantized layer.
        residual_length: exact recent tokens.
        sink_length: exact early tokens.
        dtype: dtype of the exact tokens.
        matrices: whether the codebook has full matrices, as the recipe "default" makes them, or diagonal ones.

    Raises:
        ValueError: if the model is not supported.
    """
    reason = unsupported_reason(config)
    if reason:
        raise ValueError(f"No VecInfer cache for this model: {reason}.")
    shapes = list(head_shapes(config).values())
    layers = list(zip(shapes, formats, strict=True))
    per_token = sum(bytes_per_token(shape, pair) for shape, pair in layers)
    exact = sum(shape.elements for shape in shapes) * dtype.itemsize * (residual_length + sink_length)
    # Two lengths of four bytes, and as many for each place of the sinks' order.
    places = sink_length + CANDIDATES if sink_length else 0
    lengths = sum(4 * (2 + shape.num_key_value_heads * places) for shape in shapes)
    # The exact tokens are not coded as well.
    per_sequence = exact + lengths - int(per_token * (residual_length + sink_length))
    kinds = (MATRIX, MATRIX) if matrices else (SMOOTH_SCALE, None)
    codebooks = sum(
        layer_nbytes(shape, LayerForm(SideForm(key, kinds[0], matrices), SideForm(value, kinds[1], False)))
        for shape, (key, value) in layers
    )
    bits = mean_bits(formats).bits_per_element
    return CachePlan(f"{bits:g} bits", per_token, per_sequence + _default_bytes(config, dtype), codebooks)
