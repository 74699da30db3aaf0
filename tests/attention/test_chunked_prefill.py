# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Many new tokens against a stored history, in parts merged by log-sum-exp, against a float64 oracle."""

import pytest
import torch
from cache_oracle import EPS, attend, stored_tokens
from filling import put
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf.attention import chunked_prefill, later_tokens
from vecinfer_hf.cache.forward_pass import ForwardPass
from vecinfer_hf.cache.layer import VecInferLayer


SINKS, WINDOW, HEADS, DIM = 2, 8, 2, 16


def filled_layer(stored, codebook, batch=2, crop=0):
    """A layer that holds `stored` random tokens a row, of which `crop` were taken away again."""
    generator = torch.Generator().manual_seed(stored)
    layer = VecInferLayer(0, codebook, 2 * HEADS, WINDOW, SINKS, "small_values", "reference", ForwardPass())
    states = torch.randn(2, batch, HEADS, stored + crop, DIM, generator=generator)
    put(layer, *states)
    layer.crop(-crop)
    return layer


def attend_to(query, layer, keys, values, scaling, sink_logits=None):
    """The attention of new tokens to a layer that does not hold them yet."""
    _, tokens, quantized = layer.read_lengths()
    rest = layer.buffers, layer.layer_codebook, layer.ops, None, scaling, None, sink_logits
    return later_tokens.attend_before_storing(query, keys, values, tokens, quantized, *rest)


def oracle(query, layer, keys, values, scaling, sink_logits=None):
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
                sink = None if sink_logits is None else sink_logits[head]
                output[row, head, t], _ = attend(
                    query[row, head, t], both[0][:seen], both[1][:seen], scaling, 0.0, sink
                )
    # As in cache_oracle.decode_attention, with one rounding more for every part that is merged.
    score = scaling * query.double().norm(dim=-1).max().item() * largest_key * EPS * (4 * DIM + 16)
    return output, (2 * score + (len(both[0]) + 4 * DIM) * EPS) * largest_value


@pytest.mark.parametrize("stored", [1, 5, 10, 11, 43, 100])
@pytest.mark.parametrize(("group", "sink_logits"), [(1, False), (2, True), (4, False)])
def test_against_the_oracle(stored, group, sink_logits, monkeypatch):
    # Small blocks, so that every kind of part occurs several times.
    monkeypatch.setattr(later_tokens, "CODE_BLOCK", 32)
    monkeypatch.setattr(chunked_prefill, "QUERY_BLOCK", 7)
    layer = filled_layer(stored, random_codebook(tiny_config("llama"), mean=True))
    generator = torch.Generator().manual_seed(7)
    query = torch.randn(2, HEADS * group, 17, DIM, generator=generator)
    keys, values = torch.randn(2, 2, HEADS, 17, DIM, generator=generator)
    sinks = torch.randn(HEADS * group, generator=generator) if sink_logits else None
    expected, bound = oracle(query, layer, keys, values, 0.3, sinks)
    found = attend_to(query, layer, keys, values, 0.3, sinks)
    assert (found - expected).abs().max() <= bound


def test_after_a_crop_the_window_is_shorter(monkeypatch):
    monkeypatch.setattr(later_tokens, "CODE_BLOCK", 32)
    layer = filled_layer(90, random_codebook(tiny_config("llama")), crop=5)
    assert layer.read_lengths().tokens[0] - SINKS - layer.read_lengths().quantized[0] == WINDOW - 5
    query, keys, values = torch.randn(3, 2, HEADS, 20, DIM, generator=torch.Generator().manual_seed(1))
    expected, bound = oracle(query, layer, keys, values, 0.3)
    assert (attend_to(query, layer, keys, values, 0.3) - expected).abs().max() <= bound


def test_views_are_read_as_they_lie():
    layer = filled_layer(43, random_codebook(tiny_config("llama")))
    generator = torch.Generator().manual_seed(2)
    # Models hand over [B, T, H, D] transposed.
    query = torch.randn(2, 20, 2 * HEADS, DIM, generator=generator).transpose(1, 2)
    keys, values = torch.randn(2, 2, 20, HEADS, DIM, generator=generator).transpose(2, 3)
    found = attend_to(query, layer, keys, values, 0.3)
    again = attend_to(query.contiguous(), layer, keys.contiguous(), values.contiguous(), 0.3)
    assert torch.equal(found, again)


def test_what_flash_attention_cannot_serve_goes_elsewhere():
    query, keys = torch.zeros(2, HEADS, 20, DIM), torch.zeros(2, HEADS, 20, DIM)
    assert chunked_prefill.serves_chunks(query, keys, keys)
    assert not chunked_prefill.serves_chunks(query, keys, torch.zeros(2, HEADS, 20, DIM // 2))
    assert not chunked_prefill.serves_chunks(query.requires_grad_(), keys, keys)
    with torch.no_grad():
        assert chunked_prefill.serves_chunks(query, keys, keys)


@pytest.mark.parametrize("served", [True, False])
def test_both_ways_reach_the_oracle(served, monkeypatch):
    monkeypatch.setattr(later_tokens, "serves_chunks", lambda *_: served)
    layer = filled_layer(43, random_codebook(tiny_config("llama")))
    query, keys, values = torch.randn(3, 2, HEADS, 20, DIM, generator=torch.Generator().manual_seed(1))
    expected, bound = oracle(query, layer, keys, values, 0.3)
    assert (attend_to(query, layer, keys, values, 0.3) - expected).abs().max() <= bound
