# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""VecInferCache: the cache object that generate and models see; one VecInferLayer per full-attention layer.

Owns the choice of layers and what concerns all of them. layer.py owns a layer's storage.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, QuantizedCache, StaticCache
from transformers.utils import logging

from ..codebook.codebook import Codebook
from ..codebook.sizes import bytes_per_token
from ..config import VecInferConfig
from ..errors import ConfigError, UnsupportedModelError
from ..model_info import full_attention_layers, text_config, unsupported_model_reason, unsupported_reason
from .layer import SharedState, VecInferLayer
from .padding import Padding
from .static_layer import VecInferStaticLayer


logger = logging.get_logger(__name__)


class VecInferCache(QuantizedCache):
    """A key/value cache that keeps old tokens as vector-quantization codes (https://arxiv.org/abs/2510.06175).

    Layers with full attention get a `VecInferLayer`; sliding-window and linear-attention layers, which do not grow
    with the context, keep transformers' own. It works with any attention implementation; "vecinfer" attention, which
    `generate` and `enable` switch on, is the one that computes on the codes.

    Args:
        model_or_config: the model, or its config.
        codebook: a Codebook, a VecInferConfig, or the name of a codebook (see `VecInferConfig`); None for "auto".
        revision, subfolder, trusted_owners, key_bits, value_bits, residual_length, sink_length, sink_choice, static,
            max_cache_len (required if static), ops_backend: see `VecInferConfig`; None as the codebook was made.

    Raises:
        UnsupportedModelError: for a model that cannot have such a cache.
        ConfigError: for an option that breaks a rule or contradicts the codebook.
        CodebookError: for a codebook that cannot be found or does not fit.
    """

    def __init__(
        self,
        model_or_config: PreTrainedModel | PreTrainedConfig,
        codebook: Codebook | VecInferConfig | str | None = None,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        trusted_owners: list[str] | None = None,
        key_bits: float | str | None = None,
        value_bits: float | str | None = None,
        residual_length: int | None = None,
        sink_length: int | None = None,
        sink_choice: str | None = None,
        static: bool | None = None,
        max_cache_len: int | None = None,
        ops_backend: str | None = None,
    ):
        from ..integration.resolve import resolve

        given = {
            "revision": revision,
            "subfolder": subfolder,
            "trusted_owners": trusted_owners,
            "key_bits": key_bits,
            "value_bits": value_bits,
            "residual_length": residual_length,
            "sink_length": sink_length,
            "sink_choice": sink_choice,
            "static": static,
            "max_cache_len": max_cache_len,
            "ops_backend": ops_backend,
        }
        is_model = isinstance(model_or_config, PreTrainedModel)
        config = model_or_config.config if is_model else model_or_config
        reason = unsupported_model_reason(model_or_config) if is_model else unsupported_reason(config)
        if reason:
            raise UnsupportedModelError(f"No VecInfer cache for this model: {reason}.")
        codebook, options = resolve(model_or_config, codebook, **given)
        inner = text_config(config)
        quantized = set(full_attention_layers(config))
        shared = SharedState(inner, tuple(sorted(quantized)))
        if not quantized:
            logger.warning_once(
                f"vecinfer: {inner.model_type} has no layer with full attention, so nothing is quantized: all its "
                "layers keep the stock cache."
            )
        arguments = (
            codebook,
            _first(options.residual_length, codebook.config.residual_length),
            _first(options.sink_length, codebook.config.sink_length),
            _first(options.sink_choice, codebook.config.sink_choice),
            _first(options.ops_backend, "auto"),
            shared,
        )
        if options.static:
            size = options.max_cache_len
            if size is None:
                raise ConfigError("A static cache needs max_cache_len, the tokens it has room for.")
            layers = [
                VecInferStaticLayer(index, *arguments, max_cache_len=size) if index in quantized else layer
                for index, layer in enumerate(StaticCache(config=inner, max_cache_len=size).layers)
            ]
        else:
            layers = [
                VecInferLayer(index, *arguments) if index in quantized else layer
                for index, layer in enumerate(DynamicCache(config=inner).layers)
            ]
        # QuantizedCache's own constructor only knows transformers' backends and refuses sliding layers.
        Cache.__init__(self, layers=layers)
        self.codebook = codebook
        self.shared = shared

    @property
    def quantized_layers(self) -> list[VecInferLayer]:
        """The layers that hold codes."""
        return [layer for layer in self.layers if isinstance(layer, VecInferLayer)]

    @property
    def nbytes(self) -> int:
        """Bytes allocated by the whole cache: codes, windows, sinks, codebooks, and the stock layers' tensors."""
        total = 0
        for layer in self.layers:
            if isinstance(layer, VecInferLayer):
                total += layer.nbytes
            else:
                tensors = (value for value in vars(layer).values() if isinstance(value, torch.Tensor))
                total += sum(tensor.untyped_storage().nbytes() for tensor in tensors)
        return total

    @property
    def bits_per_element(self) -> float:
        """Mean bits per key or value element of coded tokens, padding bytes of the tile format included."""
        bits = elements = 0
        for layer in self.quantized_layers:
            shape = layer.codebook.head_shape(layer.layer_idx)
            bits += 8 * bytes_per_token(shape, (layer.key_format, layer.value_format))
            elements += shape.num_key_value_heads * (shape.key_head_dim + shape.value_head_dim)
        return bits / elements

    def stock_nbytes(self, dtype: torch.dtype | None = None) -> int:
        """Bytes that the stock cache would take for the same columns.

        Args:
            dtype: count in this dtype; default the cache's own.
        """
        total = 0
        for layer in self.layers:
            if isinstance(layer, VecInferLayer) and layer.is_initialized:
                batch, heads, _, dim = layer.buffers.sink_keys.shape
                item = (dtype or layer.dtype).itemsize
                total += 2 * batch * heads * dim * item * int(layer.cumulative_length)
            elif not isinstance(layer, VecInferLayer):
                tensors = (value for value in vars(layer).values() if isinstance(value, torch.Tensor))
                total += sum(tensor.nbytes for tensor in tensors)
        return total

    @property
    def compression_ratio(self) -> float:
        """How many times larger the stock cache of the same dtype would be, everything counted."""
        return self.stock_nbytes() / self.nbytes

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last `|tokens_to_remove|` columns of every layer (0 or negative)."""
        super().crop(tokens_to_remove)
        self.shared.padding.crop(int(self.get_seq_length()))

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Keep the rows `beam_idx`, in that order."""
        super().reorder_cache(beam_idx)
        self.shared.padding.select(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices`, in that order."""
        super().batch_select_indices(indices)
        self.shared.padding.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times."""
        super().batch_repeat_interleave(repeats)
        self.shared.padding.repeat(repeats)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.shared.padding = Padding()


def _first(given, default):
    return default if given is None else given
