# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What each layer of a model keeps between calls, read from its config: codes, a default layer, another's, or nothing.

Owns which layers are coded. refusals.py owns which models are refused as a whole.
"""

from __future__ import annotations

from typing import NamedTuple

from transformers import PreTrainedConfig
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionCacheLayerMixin,
)


try:
    from transformers.cache_utils import DummyLayer
except ImportError:  # transformers before 5.24

    class DummyLayer:  # type: ignore[no-redef]
        """Stands for transformers' layer that stores nothing; here no cache has one."""


CODES, DEFAULT, SHARED, NOTHING = "codes", "default", "shared", "nothing"


_WITHOUT_ATTENTION = ("moe", "mlp")
"""Entries of `layer_types` for layers of experts or an MLP alone."""


class LayerUse(NamedTuple):
    """What one layer keeps.

    Args:
        index: the layer's index.
        keeps: "codes" (also beside a recurrent state), "default" for a layer of the default cache, "shared" for the
            keys and values of layer `source`, "nothing" for a layer without attention.
        reason: why it keeps no codes; "" if it keeps codes alone.
        source: for "shared", the layer that stores; else None.
    """

    index: int
    keeps: str
    reason: str = ""
    source: int | None = None


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the config of the language model inside `config` (itself for a text model)."""
    return config.get_text_config(decoder=True)


def sharing_layers(config: PreTrainedConfig) -> dict[int, int]:
    """Return layer index -> the layer whose keys and values it reads (Gemma 3n, Gemma 4 E2B and E4B)."""
    inner = text_config(config)
    shared = getattr(inner, "num_kv_shared_layers", None) or 0
    first = inner.num_hidden_layers - shared
    types = getattr(inner, "layer_types", None) or ["full_attention"] * inner.num_hidden_layers
    sources = {kind: index for index, kind in enumerate(types[:first])}
    return {index: sources[types[index]] for index in range(first, inner.num_hidden_layers) if types[index] in sources}


def layer_uses(config: PreTrainedConfig) -> list[LayerUse]:
    """Return what each layer of a model keeps; `unsupported_reason(config)` must be None."""
    inner = text_config(config)
    sharing, cross = sharing_layers(config), getattr(inner, "cross_attention_layers", None) or ()
    types = getattr(inner, "layer_types", None) or ()
    empty = [index for index, kind in enumerate(types) if kind in _WITHOUT_ATTENTION]
    layers = DynamicCache(config=inner).layers
    uses = []
    # transformers before 5.24 leaves layers that share keys and values out of its caches.
    for index in range(max(len(layers), *(index + 1 for index in sharing)) if sharing else len(layers)):
        layer = layers[index] if index < len(layers) else None
        if index in sharing:
            source = sharing[index]
            uses.append(LayerUse(index, SHARED, f"reads the keys and values of layer {source}", source))
        elif index in empty or isinstance(layer, DummyLayer):
            uses.append(LayerUse(index, NOTHING, "no attention"))
        elif index in cross:
            uses.append(LayerUse(index, DEFAULT, "cross-attention: it does not grow with the text"))
        elif type(layer) is DynamicLayer:
            uses.append(LayerUse(index, CODES))
        elif type(layer) is LinearAttentionAndFullAttentionLayer:
            uses.append(LayerUse(index, CODES, "its recurrent state keeps the default form"))
        elif isinstance(layer, DynamicSlidingWindowLayer):
            uses.append(LayerUse(index, DEFAULT, f"sliding window: it keeps {layer.sliding_window} tokens at most"))
        elif isinstance(layer, LinearAttentionCacheLayerMixin):
            uses.append(LayerUse(index, DEFAULT, "recurrent or convolution state of fixed size"))
        else:
            uses.append(LayerUse(index, DEFAULT, f"a cache layer of its own, {type(layer).__name__}"))
    return uses


def full_attention_layers(config: PreTrainedConfig) -> list[int]:
    """Return the indices of the layers that keep codes: those with full attention, which grow with the context."""
    return [use.index for use in layer_uses(config) if use.keeps == CODES]
