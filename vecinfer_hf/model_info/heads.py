# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The heads of a layer, read from a config: their number and sizes, which may differ from layer to layer."""

from __future__ import annotations

from typing import NamedTuple

from transformers import PreTrainedConfig

from .layers import full_attention_layers, text_config


class HeadShape(NamedTuple):
    """The heads of one layer's cache: their number, and the elements of a key and of a value."""

    num_key_value_heads: int
    key_head_dim: int
    value_head_dim: int

    @property
    def elements(self) -> int:
        """Elements of one token's keys and values."""
        return self.num_key_value_heads * (self.key_head_dim + self.value_head_dim)


def head_shape(layer_config: PreTrainedConfig) -> HeadShape:
    """Return the heads of one layer, from an entry of a config's `per_layer_config`."""
    heads = getattr(layer_config, "num_key_value_heads", None) or layer_config.num_attention_heads
    key = getattr(layer_config, "head_dim", None) or layer_config.hidden_size // layer_config.num_attention_heads
    return HeadShape(heads, key, getattr(layer_config, "v_head_dim", None) or key)


def head_shapes(config: PreTrainedConfig) -> dict[int, HeadShape]:
    """Return the heads of each layer with full attention."""
    layers = text_config(config).per_layer_config
    return {index: head_shape(layers[index]) for index in full_attention_layers(config)}


def query_heads(config: PreTrainedConfig) -> dict[int, int]:
    """Return the query heads of each layer with full attention."""
    layers = text_config(config).per_layer_config
    return {index: layers[index].num_attention_heads for index in full_attention_layers(config)}
