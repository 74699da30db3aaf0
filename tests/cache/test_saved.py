# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Caches in files: they go on as if nothing had happened, or are refused with the reason."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model

from vecinfer_hf import SavedCacheError, UnsupportedCallError, VecInferCache, enable
from vecinfer_hf.integration.compat import cache_argument


OPTIONS = {"residual_length": 32, "ops_backend": "reference"}


def filled(model, codebook, ids, **options):
    cache = VecInferCache(model, codebook, **{**OPTIONS, **options})
    run(model, ids, cache, 1)
    return cache


def run(model, ids, cache, tokens):
    return model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, **cache_argument(cache)
    )


@pytest.fixture
def case(tmp_path):
    model = tiny_model("llama")
    codebook = random_codebook(model.config)
    return model, codebook, tmp_path / "text.safetensors"


@pytest.mark.parametrize(("rows", "length"), [(1, 200), (2, 60), (1, 3)])
def test_a_loaded_cache_goes_on_like_the_saved_one(case, rows, length):
    model, codebook, path = case
    ids = tiny_inputs(rows, length)
    cache = filled(model, codebook, ids)
    cache.save(path)
    loaded = VecInferCache.load(path, tiny_model("llama"), codebook)
    for mine, its in zip(loaded.layers, cache.layers, strict=True):
        assert mine.read_lengths() == its.read_lengths()
        for one, other in zip(mine.read(), its.read(), strict=True):
            assert torch.equal(one, other)
    longer = torch.cat([ids, tiny_inputs(rows, 7, seed=5)], 1)
    assert torch.equal(run(model, longer, loaded, 50), run(model, longer, cache, 50))


def test_the_codebook_of_enable_is_used_and_another_one_refused(case):
    model, codebook, path = case
    filled(model, codebook, tiny_inputs(1, 100)).save(path)
    assert VecInferCache.load(path, enable(tiny_model("llama"), codebook, **OPTIONS)).codebook is codebook
    other = enable(tiny_model("llama"), random_codebook(model.config, seed=9), **OPTIONS)
    with pytest.raises(SavedCacheError, match="another codebook"):
        VecInferCache.load(path, other)
    wider = tiny_model("llama", num_key_value_heads=4)
    with pytest.raises(SavedCacheError, match="another codebook"):
        VecInferCache.load(path, wider, random_codebook(wider.config))
    with pytest.raises(SavedCacheError, match="float32 tokens, but the model is in torch.bfloat16"):
        VecInferCache.load(path, tiny_model("llama", dtype=torch.bfloat16), codebook)


def test_half_a_file_another_file_and_a_changed_one_are_refused(case):
    model, codebook, path = case
    with pytest.raises(SavedCacheError, match="There is no file"):
        VecInferCache.load(path, model, codebook)
    filled(model, codebook, tiny_inputs(1, 100)).save(path)
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(SavedCacheError, match="no complete saved cache"):
            VecInferCache.load(path, model, codebook)
    path.write_bytes(whole[:-10] + bytes([whole[-10] ^ 1]) + whole[-9:])
    with pytest.raises(SavedCacheError, match="damaged"):
        VecInferCache.load(path, model, codebook)
    path.write_bytes(whole)
    tensors = load_file(path)
    save_file(tensors, path)
    with pytest.raises(SavedCacheError, match="no saved cache, not a saved cache"):
        VecInferCache.load(path, model, codebook)
    save_file(tensors, path, {"vecinfer": json.dumps({"kind": "cache", "format": 99, "tiles": 1})})
    with pytest.raises(SavedCacheError, match="format 99"):
        VecInferCache.load(path, model, codebook)


def test_what_cannot_be_saved_is_told_and_leaves_an_old_file(case):
    model, codebook, path = case
    filled(model, codebook, tiny_inputs(1, 50)).save(path)
    before = path.read_bytes()
    with pytest.raises(UnsupportedCallError, match="empty"):
        VecInferCache(model, codebook).save(path)
    with pytest.raises(UnsupportedCallError, match="growing"):
        VecInferCache(model, codebook, static=True, max_cache_len=64).save(path)
    sliding = tiny_model("gemma2")
    with pytest.raises(UnsupportedCallError, match="full attention"):
        filled(sliding, random_codebook(sliding.config), tiny_inputs(1, 50)).save(path)
    padded, mask = tiny_inputs(2, 50), torch.ones(2, 50, dtype=torch.long)
    mask[0, :5] = 0
    cache = VecInferCache(model, codebook, **OPTIONS)
    model.generate(padded, attention_mask=mask, max_new_tokens=2, do_sample=False, **cache_argument(cache))
    with pytest.raises(UnsupportedCallError, match="padded"):
        cache.save(path)
    assert path.read_bytes() == before
    with pytest.raises(SavedCacheError, match="cannot be written"):
        filled(model, codebook, tiny_inputs(1, 50)).save(path / "below")
