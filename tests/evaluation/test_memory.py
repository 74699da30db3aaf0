# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes are those allocated: whole storages, each once, and nothing of the model."""

import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model
from transformers import DynamicCache

from vecinfer_hf import VecInferCache
from vecinfer_hf.evaluation import cache_nbytes
from vecinfer_hf.evaluation.tensors import tensors_in
from vecinfer_hf.integration.compat import cache_argument


def test_stock_cache_is_keys_and_values():
    model = tiny_model("llama")
    cache = DynamicCache(config=model.config)
    assert cache_nbytes(cache) == 0
    with torch.no_grad():
        model(tiny_inputs(2, 30), **cache_argument(cache))
    assert cache_nbytes(cache) == 2 * 2 * 2 * 30 * 2 * 16 * 4  # layers, keys and values, rows, tokens, heads, channels


def test_vecinfer_cache_says_what_is_allocated():
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    cache = VecInferCache(model.config, random_codebook(model.config), residual_length=16)
    with torch.no_grad():
        model(tiny_inputs(2, 90), **cache_argument(cache))
    assert cache_nbytes(cache) == cache.nbytes > 0


def test_a_hidden_copy_of_the_keys_would_be_counted():
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    cache = VecInferCache(model.config, random_codebook(model.config), residual_length=16)
    with torch.no_grad():
        model(tiny_inputs(1, 40), **cache_argument(cache))
    before = cache_nbytes(cache)
    cache.layers[0].forgotten = {"states": [torch.zeros(100)]}
    assert cache_nbytes(cache) == before + 400


def test_a_view_counts_as_its_whole_storage_once():
    cache = DynamicCache(config=tiny_model("llama").config)
    storage = torch.zeros(1, 2, 50, 16)
    cache.update(storage[:, :, :10], storage[:, :, 10:20], 0)
    cache.layers[0].keys, cache.layers[0].values = storage[:, :, :10], storage[:, :, 10:20]
    assert cache_nbytes(cache) == storage.nbytes


def test_the_walk_stops_at_modules_and_cycles():
    class Node:
        pass

    node = Node()
    node.self, node.model, node.tensor, node.library = node, torch.nn.Linear(2, 2), torch.zeros(3), torch
    assert list(tensors_in(node)) == [node.tensor]
