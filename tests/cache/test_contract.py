# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""contract.py: what kvpress does to the layers of a transformers QuantizedCache, step by step as its hook does it."""

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model
from transformers.cache_utils import QuantizedCache

from vecinfer_hf import UnsupportedCallError, VecInferCache
from vecinfer_hf.integration.compat import cache_argument


def prompted(length=60, residual=16):
    """A model and a cache that has read a prompt."""
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    cache = VecInferCache(model, random_codebook(model.config), residual_length=residual)
    with torch.no_grad():
        model(tiny_inputs(1, length), **cache_argument(cache))
    return model, cache


def compress(layer, keep):
    """The steps of kvpress's forward hook on a quantized layer, keeping some positions of each head."""
    keys = layer._dequantize(layer._quantized_keys)
    values = layer._dequantize(layer._quantized_values)
    keys, values = keys[:, :, keep], values[:, :, keep]
    layer._quantized_keys = layer._quantize(keys, axis=layer.axis_key)
    layer._quantized_values = layer._quantize(values, axis=layer.axis_value)
    layer.keys = torch.zeros(0, dtype=keys.dtype, device=keys.device)
    layer.values = torch.zeros(0, dtype=keys.dtype, device=keys.device)
    layer.cumulative_length = keys.shape[2]
    return keys, values


def test_it_is_a_quantized_cache_with_the_attributes_of_its_layers():
    _, cache = prompted()
    assert isinstance(cache, QuantizedCache)
    layer = cache.quantized_layers[0]
    assert (layer.nbits, layer.q_group_size, layer.residual_length) == (2, 4, 16)
    assert layer._dequantize(layer._quantized_keys).shape == (1, 2, 60, 16)
    assert layer.keys.device == layer.values.device == torch.device("cpu")


def test_dequantized_states_are_what_the_layer_holds():
    _, cache = prompted()
    for layer in cache.quantized_layers:
        keys, values = layer.read()
        assert torch.equal(layer._dequantize(layer._quantized_keys), keys)
        assert torch.equal(layer._dequantize(layer._quantized_values), values)


def test_compressed_states_are_stored_and_attended_to():
    model, cache = prompted()
    keep = torch.arange(0, 60, 3)
    for layer in cache.quantized_layers:
        keys, values = compress(layer, keep)
        assert layer.get_seq_length() == len(keep) == layer.read_lengths().tokens[0]
        # Sinks and window hold 20 tokens, so all that is left stays as it was.
        assert torch.equal(layer.read()[0], keys)
        assert torch.equal(layer.read()[1], values)
    with torch.no_grad():
        model(tiny_inputs(1, 5, seed=3), **cache_argument(cache))
    assert [layer.get_seq_length() for layer in cache.layers] == [len(keep) + 5] * 2


def test_one_side_alone_or_padded_rows_are_refused():
    _, cache = prompted()
    layer = cache.quantized_layers[0]
    with pytest.raises(UnsupportedCallError, match="_quantized_keys before _quantized_values"):
        layer._quantized_values = layer._quantize(torch.zeros(1, 2, 5, 16))
    with pytest.raises(UnsupportedCallError, match=r"layer\.keys cannot be assigned"):
        layer.keys = torch.ones(1, 2, 5, 16)
    layer.forward_pass.padding.columns = torch.tensor([[False] + [True] * 59])
    layer._quantized_keys = layer._quantize(torch.zeros(1, 2, 5, 16))
    with pytest.raises(UnsupportedCallError, match="padding"):
        layer._quantized_values = layer._quantize(torch.zeros(1, 2, 5, 16))
