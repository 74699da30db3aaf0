# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The layers of a cache: transformers' own for its config, with a layer of codes in place of each one that grows."""

from __future__ import annotations

from transformers import PreTrainedConfig
from transformers.cache_utils import (
    CacheLayerMixin,
    DynamicCache,
    LinearAttentionCacheLayerMixin,
    StaticCache,
)
from transformers.utils import logging

from ..codebook.codebook import Codebook
from ..config import VecInferConfig
from ..distributed.heads import HeadShard
from ..model_info import layer_uses, query_heads, sharing_layers, text_config
from ..model_info.layers import CODES, NOTHING, SHARED, DummyLayer
from .forward_pass import ForwardPass
from .hybrid_layer import VecInferHybridLayer, VecInferStaticHybridLayer
from .layer import VecInferLayer
from .static_layer import VecInferStaticLayer


logger = logging.get_logger(__name__)


def make_layers(
    config: PreTrainedConfig, codebook: Codebook, options: VecInferConfig, shard: HeadShard
) -> tuple[list[CacheLayerMixin | LinearAttentionCacheLayerMixin | DummyLayer], ForwardPass]:
    """Return the layers of a cache, and what they share.

    Args:
        config: the model's config.
        codebook: its codebook.
        options: how the cache runs.
        shard: which heads this process has.
    """
    inner, uses = text_config(config), layer_uses(config)
    quantized = tuple(use.index for use in uses if use.keeps == CODES)
    if not quantized:
        logger.warning_once(
            f"vecinfer: {inner.model_type} has no layer with full attention, so nothing is quantized: all its "
            "layers keep the default cache."
        )
    size = {"max_cache_len": options.max_cache_len} if options.static else {}
    layers = (StaticCache if options.static else DynamicCache)(config=inner, **size).layers
    for use in uses:
        if use.keeps == SHARED and use.index < len(layers):
            layers[use.index] = DummyLayer()
    nothing = [use.index for use in uses if use.keeps == NOTHING]
    recurrent = tuple(
        i for i, layer in enumerate(layers) if isinstance(layer, LinearAttentionCacheLayerMixin) and i not in nothing
    )
    # Cross-attention layers store in some passes only.
    cross = getattr(inner, "cross_attention_layers", None) or ()
    stores = tuple(i for i, layer in enumerate(layers) if isinstance(layer, CacheLayerMixin) and i not in cross)
    forward_pass = ForwardPass(stores, quantized, recurrent)
    made, heads, sources = codebook.config, query_heads(config), list(sharing_layers(config).values())
    for index in quantized:
        arguments = (
            index,
            codebook,
            heads[index] // shard.size,
            _first(options.residual_length, made.residual_length),
            _first(options.sink_length, made.sink_length),
            _first(options.sink_choice, made.sink_choice),
            options.ops_backend or "auto",
            forward_pass,
        )
        if index in recurrent:
            kind = VecInferStaticHybridLayer if options.static else VecInferHybridLayer
            layers[index] = kind(*arguments, number_of_states=layers[index].number_of_states, **size)
        else:
            layers[index] = (VecInferStaticLayer if options.static else VecInferLayer)(*arguments, **size)
        layers[index].readers = 1 + sources.count(index)
    return layers, forward_pass


def _first(given, default):
    return default if given is None else given
