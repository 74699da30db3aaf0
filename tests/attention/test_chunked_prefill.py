# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Many new tokens against a stored history, in parts merged by log-sum-exp, against a float64 oracle."""

import pytest
import torch
from cache_oracle import EPS, attend, stored_tokens
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf.attention import chunked_prefill as module
from vecinfer_hf.cache.handle import SharedState
from vecinfer_hf.cache.layer import VecInferLayer


SINKS, WINDOW, HEADS, DIM = 2, 8, 2, 16


def filled_layer(stored, codebook, batch=2, crop=0):
    """A layer that holds `stored` random tokens a row, of which `crop` were taken away again."""
    generator = torch.Generator().manual_seed(stored)
    config = tiny_config("llama")
    layer = VecInferLayer(0, codebook, WINDOW, SINKS, "small_values", "reference", SharedState(config))
    states = torch.randn(2, batch, HEADS, stored + crop, DIM, generator=generator)
    layer.update(*states)
    layer.crop(-crop)
    return layer


def oracle(query, layer, keys, values, scaling, s_aux=None):
    """Float64 attention token by token, and a bound on a float32 answer's error."""
    codebook, group = layer.layer_codebook, query.shape[1] // HEADS
    output = torch.zeros(query.shape, dtype=torch.float64)
    largest_key = largest_value = 0.0
    for row in range(query.shape[0]):
        for head in range(query.shape[1]):
            old = stored_tokens(layer.buffers, codebook, WINDOW, row, head // group)
            both = [
                torch.cat([past, new[row, head // group].double()])
                for past, new in zip(old, (keys, values), strict=True)
            ]
            largest_key = max(largest_key, both[0].norm(dim=1).max().item())
            largest_value = max(largest_value, both[1].norm(dim=1).max().item())
            for t in range(query.shape[2]):
                seen = len(old[0]) + t + 1
                sink = None if s_aux is None else s_aux[head]
                output[row, head, t], _ = attend(
                    query[row, head, t], both[0][:seen], both[1][:seen], scaling, 0.0, sink
                )
    # As in cache_oracle.decode_attention, with one rounding more for every part that is merged.
    score = scaling * query.double().norm(dim=-1).max().item() * largest_key * EPS * (4 * DIM + 16)
    return output, (2 * score + (len(both[0]) + 4 * DIM) * EPS) * largest_value


@pytest.mark.parametrize("stored", [1, 5, 10, 11, 43, 100])
@pytest.mark.parametrize(("group", "s_aux"), [(1, False), (2, True), (4, False)])
def test_against_the_oracle(stored, group, s_aux, monkeypatch):
    # Small blocks, so that every kind of part occurs several times.
    monkeypatch.setattr(module, "CODE_BLOCK", 32)
    monkeypatch.setattr(module, "QUERY_BLOCK", 7)
    layer = filled_layer(stored, random_codebook(tiny_config("llama"), mean=True))
    generator = torch.Generator().manual_seed(7)
    query = torch.randn(2, HEADS * group, 17, DIM, generator=generator)
    keys, values = torch.randn(2, 2, HEADS, 17, DIM, generator=generator)
    sinks = torch.randn(HEADS * group, generator=generator) if s_aux else None
    expected, bound = oracle(query, layer, keys, values, 0.3, sinks)
    found = module.chunked_prefill_attention(query, layer, keys, values, 0.3, sinks)
    assert (found - expected).abs().max() <= bound


def test_after_a_crop_the_window_is_shorter(monkeypatch):
    monkeypatch.setattr(module, "CODE_BLOCK", 32)
    layer = filled_layer(90, random_codebook(tiny_config("llama")), crop=5)
    assert layer.lengths[0] - SINKS - layer.quantized_lengths[0] == WINDOW - 5
    query, keys, values = torch.randn(3, 2, HEADS, 20, DIM, generator=torch.Generator().manual_seed(1))
    expected, bound = oracle(query, layer, keys, values, 0.3)
    assert (module.chunked_prefill_attention(query, layer, keys, values, 0.3) - expected).abs().max() <= bound


def test_views_are_read_as_they_lie():
    layer = filled_layer(43, random_codebook(tiny_config("llama")))
    generator = torch.Generator().manual_seed(2)
    # Models hand over [B, T, H, D] transposed.
    query = torch.randn(2, 20, 2 * HEADS, DIM, generator=generator).transpose(1, 2)
    keys, values = torch.randn(2, 2, 20, HEADS, DIM, generator=generator).transpose(2, 3)
    found = module.chunked_prefill_attention(query, layer, keys, values, 0.3)
    again = module.chunked_prefill_attention(query.contiguous(), layer, keys.contiguous(), values.contiguous(), 0.3)
    assert torch.equal(found, again)


def test_what_it_cannot_serve_goes_elsewhere():
    layer = filled_layer(43, random_codebook(tiny_config("llama")))
    query = torch.zeros(2, HEADS, 20, DIM)
    assert module.supports(query, layer, None)
    assert not module.supports(query, layer, 5.0)
    layer.lengths = [43, 40]
    assert not module.supports(query, layer, None)
