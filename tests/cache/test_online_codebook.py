# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The online codebook: fitted when the first token is coded, better than nothing, never saved."""

import copy

import pytest
import torch
from filling import put
from tiny_codebooks import random_codebook
from tiny_models import FAMILIES, tiny_inputs, tiny_model

from vecinfer_hf import CodebookError, VecInferCache
from vecinfer_hf.cache.online_codebook import OnlineCodebook
from vecinfer_hf.integration.compat import returned_cache


OPTIONS = {"codebook": "online", "residual_length": 16}


def generate(model, inputs, **cache_config):
    return model.generate(
        **inputs,
        max_new_tokens=30,
        do_sample=False,
        cache_implementation="vecinfer",
        cache_config={**OPTIONS, **cache_config},
        return_dict_in_generate=True,
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [5, 18, 60])
def test_any_model_generates_without_calibration(family, length):
    model = tiny_model(family)
    ids = tiny_inputs(2, length)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    output = generate(model, {"input_ids": ids * mask, "attention_mask": mask})
    assert output.sequences.shape == (2, length + 30)
    for layer in returned_cache(output).quantized_layers:
        assert max(layer.read_lengths().quantized) == length + 29 - 4 - 16


def prompt_error(cache, states):
    layer = cache.layers[0]
    put(layer, *states)
    read = layer.read(states[0].shape[2])
    return sum(
        ((old - new).square().mean() / old.square().mean()).item() for old, new in zip(states, read, strict=True)
    )


def test_it_fits_the_prompt_far_better_than_a_random_codebook():
    model = tiny_model("llama")
    torch.manual_seed(1)
    states = [torch.randn(1, 2, 400, 16) * torch.rand(16) * 10 for _ in range(2)]
    online = prompt_error(VecInferCache(model.config, "online", residual_length=16), states)
    random = prompt_error(VecInferCache(model.config, random_codebook(model.config), residual_length=16), states)
    # 2 bits of an ideal quantizer leave 1/16 of a Gaussian's variance; 256 points in 4 dims fitted to data about 1/9.
    assert online / 2 < 1 / 6 < random / 2


def test_more_bits_fit_better():
    model = tiny_model("llama")
    torch.manual_seed(1)
    states = [torch.randn(1, 2, 400, 16) for _ in range(2)]
    errors = [
        prompt_error(VecInferCache(model.config, "online", residual_length=16, key_bits=b, value_bits=b), states)
        for b in (1, 2, 4)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_two_caches_do_not_share_a_fit():
    model = tiny_model("llama")
    caches = [returned_cache(generate(model, {"input_ids": tiny_inputs(1, 60, seed=seed)})) for seed in (0, 1)]
    codebooks = [cache.codebook for cache in caches]
    assert codebooks[0] is not codebooks[1]
    assert not torch.equal(codebooks[0].layers[0].key_centroids, codebooks[1].layers[0].key_centroids)


def test_a_layer_without_codes_is_fitted_anew_and_copies_keep_their_own():
    cache = VecInferCache(tiny_model("llama").config, "online", residual_length=16)
    layer = cache.layers[0]
    states = [torch.randn(2, 1, 2, 100, 16) * scale for scale in (1, 30)]
    put(layer, *states[0])
    first = layer.codebook.layers[0]
    copied = copy.deepcopy(cache)
    kept = copied.layers[0].read()[0]
    layer.reset()
    put(layer, *states[1])
    assert not torch.equal(layer.codebook.layers[0].key_centroid_scale, first.key_centroid_scale)
    assert copied.layers[0].codebook.layers[0] is first
    assert torch.equal(copied.layers[0].read()[0], kept)


def test_it_is_not_saved(tmp_path):
    model = tiny_model("llama")
    with pytest.raises(CodebookError, match="belongs to one prompt"):
        VecInferCache(model.config, "online").codebook.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [3, 12, 60])
def test_a_static_cache_is_fitted_in_place_to_its_prompt(length):
    """Addresses stay, so that a compiled step reads the fit; a short prompt is all there is to fit to."""
    model = tiny_model("llama")
    cache = VecInferCache(model, "online", residual_length=16, static=True, max_cache_len=200)
    layer = cache.layers[0]
    states = torch.randn(2, 1, 2, length, 16)
    layer.lazy_initialization(*states)
    before = layer.layer_codebook
    addresses = [tensor.data_ptr() for tensor in before]
    put(layer, *states)
    assert [tensor.data_ptr() for tensor in layer.layer_codebook] == addresses
    assert layer.layer_codebook.key_centroids.any()
    copied = copy.deepcopy(cache)
    kept = copied.layers[0].layer_codebook.key_centroid_scale.clone()
    cache.reset()
    put(layer, *(10 * states))
    assert [tensor.data_ptr() for tensor in layer.layer_codebook] == addresses
    assert torch.equal(copied.layers[0].layer_codebook.key_centroid_scale, kept)
    assert not torch.equal(layer.layer_codebook.key_centroid_scale, kept)


@pytest.mark.parametrize("length", [8, 60])
def test_static_and_growing_caches_generate(length):
    """With a prompt longer than sinks and window both are fitted to the same tokens and write the same text."""
    model = tiny_model("llama")
    inputs = {"input_ids": tiny_inputs(1, length)}
    static, growing = (generate(model, inputs, static=each).sequences for each in (True, None))
    assert static.shape == growing.shape
    if length == 60:
        assert torch.equal(static, growing)


def test_bits_that_contradict_a_codebook_are_refused():
    model = tiny_model("llama")
    with pytest.raises(ValueError, match=r"key_bits=4 was asked for, but the codebook has \['d4b8'\]"):
        VecInferCache(model.config, random_codebook(model.config), key_bits=4)
    assert isinstance(VecInferCache(model.config, "online", key_bits=4).codebook, OnlineCodebook)
