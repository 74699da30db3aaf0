# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""VecInferCache: the cache object that generate and models see; one VecInferLayer per full-attention layer.

Owns the choice of layers and what concerns all of them. layer.py owns a layer's storage.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache, QuantizedCache, StaticCache
from transformers.utils import logging

from ..codebook.codebook import Codebook
from ..config import VecInferConfig, check_cache_config
from ..integration.resolve import load_codebook
from ..model_info import full_attention_layers, text_config, unsupported_reason
from ..quantization.formats import parse_format
from ..quantization.packing import TILE, bytes_per_tile
from .layer import SharedState, VecInferLayer
from .online_codebook import ONLINE, OnlineCodebook
from .padding import Padding
from .static_layer import VecInferStaticLayer


logger = logging.get_logger(__name__)


class VecInferCache(QuantizedCache):
    """A key/value cache that keeps old tokens as vector-quantization codes (https://arxiv.org/abs/2510.06175).

    Layers with full attention get a `VecInferLayer`; sliding-window and linear-attention layers, which do not grow
    with the context, keep transformers' own. It works with any attention implementation; "vecinfer" attention, which
    `generate` and `enable` switch on, is the one that computes on the codes.

    Args:
        config: the model's config.
        codebook: a Codebook, or the name of one (see `VecInferConfig.codebook`).
        options: the other entries of a `cache_config`: revision, subfolder, residual_length, sink_length, sink_choice,
            ops_backend, trusted_owners, static, max_cache_len (required if static). Lengths and the choice of sinks
            default to those the codebook was made with.

    Raises:
        ValueError: for a model or an option that is not supported, or a codebook that does not fit.
    """

    def __init__(self, config: PreTrainedConfig, codebook: Codebook | str | None = None, **options):
        reason = unsupported_reason(config)
        if reason:
            raise ValueError(f"No VecInfer cache for this model: {reason}.")
        options = check_cache_config(options)
        if codebook == ONLINE:
            codebook = _online_codebook(config, options)
        elif not isinstance(codebook, Codebook):
            codebook = load_codebook(config, {**options, "codebook": codebook})
        codebook.check_model(config)
        _check_bits(codebook, options)
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
            options.get("residual_length", codebook.config.residual_length),
            options.get("sink_length", codebook.config.sink_length),
            options.get("sink_choice", codebook.config.sink_choice),
            options.get("ops_backend", "auto"),
            shared,
        )
        if options.get("static"):
            size = options.get("max_cache_len")
            if size is None:
                raise ValueError("A static cache needs max_cache_len, the tokens it has room for.")
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
            heads, dim = layer.codebook.head_shape(layer.layer_idx)
            bits += heads * bytes_per_tile(layer.key_format, layer.value_format, dim) * 8 / TILE
            elements += heads * dim * 2
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


def _check_bits(codebook: Codebook, options: dict) -> None:
    """Refuse bits that contradict the codebook, which alone decides them once it is made."""
    for position, name in enumerate(("key_bits", "value_bits")):
        if name in options:
            stored = {codebook.formats(index)[position].name for index in codebook.layers}
            if stored != {parse_format(options[name]).name}:
                raise ValueError(
                    f"{name}={options[name]} was asked for, but the codebook has {sorted(stored)}; leave {name} out "
                    "or name another codebook."
                )


def _online_codebook(config: PreTrainedConfig, options: dict) -> OnlineCodebook:
    if options.get("static"):
        raise ValueError(
            'codebook="online" needs a cache that grows: a compiled decode step cannot wait for a codebook. '
            'Leave out "static" or calibrate a codebook.'
        )
    names = ("key_bits", "value_bits", "residual_length", "sink_length", "sink_choice")
    return OnlineCodebook(config, VecInferConfig(**{name: options[name] for name in names if name in options}))
