# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""All that the stateful tests know of the package's insides: what moves in the package is followed here alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from method_codes import LayerCodes, Side
from method_model import LayerModel, SlidingModel
from method_row import Resolver, Settings

import vecinfer_hf
from vecinfer_hf import VecInferCache
from vecinfer_hf.cache.handle import CacheHandle
from vecinfer_hf.model_info import sharing_layers


PACKAGE = Path(vecinfer_hf.__file__).parent


def array(tensor: torch.Tensor | None) -> np.ndarray | None:
    """Return a tensor's numbers in float64."""
    return None if tensor is None else tensor.detach().double().cpu().numpy()


def layer_codes(codebook, index: int) -> LayerCodes:
    """Return layer `index` of a Codebook for the method model."""
    layer = codebook.layers[index]
    key_full = layer.key_transform.dim() == 3
    key = Side.build(
        array(layer.key_mean),
        None if key_full else array(layer.query_transform),
        array(layer.key_transform) if key_full else None,
        array(layer.key_centroids),
        array(layer.key_centroid_scale),
    )
    value_full = layer.value_transform is not None and layer.value_transform.dim() == 3
    mean = array(layer.value_mean)
    if layer.value_transform is None and mean is None:
        mean = np.zeros((len(key.mean), codebook.head_shape(index).value_head_dim))
    value = Side.build(
        mean,
        None if value_full else array(layer.output_transform),
        array(layer.value_transform) if value_full else None,
        array(layer.value_centroids),
        array(layer.value_centroid_scale),
    )
    return LayerCodes(key, value)


def holds_codes(layer) -> bool:
    """Return whether a cache layer is one of the package's."""
    return hasattr(layer, "residual_length") and hasattr(layer, "sink_length")


def empty_models(cache: VecInferCache, config) -> dict[int, list[LayerModel | SlidingModel]]:
    """Return the method models of the layers of an empty cache: those with codes, and those with a sliding window."""
    layers = config.get_text_config(decoder=True).per_layer_config
    models: dict[int, list[LayerModel | SlidingModel]] = {}
    for index, layer in enumerate(cache.layers):
        if holds_codes(layer):
            codes = layer_codes(cache.codebook, index)
            settings = Settings(layer.sink_length, layer.residual_length, layer.sink_choice, codes)
            models[index] = [LayerModel.empty(settings)]
        elif getattr(layer, "is_sliding", False) and getattr(layers[index], "sliding_window", None):
            models[index] = [SlidingModel.empty(layers[index].sliding_window)]
    return models


def layer_that_stored(config, key, module) -> int | None:
    """Return the layer whose keys the attention of `module` is given."""
    if isinstance(key, CacheHandle):
        return key.layer.layer_idx
    index = getattr(module, "layer_idx", None)
    return sharing_layers(config).get(index, index)


def resolver(cache: VecInferCache, index: int, row: int, valid: np.ndarray) -> Resolver:
    """Return what layer `index` answers about `row`, whose valid columns so far are `valid`, bool `[columns]`."""
    layer = cache.layers[index]

    def read() -> tuple[np.ndarray, np.ndarray] | None:
        try:
            return tuple(array(states[row])[:, valid] for states in layer.read(len(valid)))
        except Exception:
            # A call that broke off may leave a layer that cannot be read. `stored` does not hide what went wrong.
            return None

    def sinks() -> np.ndarray | None:
        have = 0 if layer.buffers is None else len(layer.buffers.sink_keys)
        return array(layer.buffers.sink_keys[row]) if row < have else None

    return Resolver(read, sinks)


def stored(cache: VecInferCache, index: int, row: int, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys and values `[H, T, D]` that layer `index`, one of codes, holds of `row`."""
    return tuple(array(states[row])[:, valid] for states in cache.layers[index].read(len(valid)))


def columns(cache: VecInferCache, index: int = 0) -> int:
    """Return the columns that layer `index` counts."""
    return int(cache.layers[index].get_seq_length())


def returned_cache(output):
    """Return the cache in what `generate(return_dict_in_generate=True)` returned."""
    from vecinfer_hf.integration.compat import returned_cache as found

    return found(output)


def attention_function():
    """Return the attention function registered with transformers as "vecinfer"."""
    from transformers import AttentionInterface

    return AttentionInterface()["vecinfer"]


def ring_keys(layer) -> torch.Tensor:
    """Return the tensor of a layer's exact recent keys, `[B, H, slots, D]`."""
    return layer.buffers.ring_keys
