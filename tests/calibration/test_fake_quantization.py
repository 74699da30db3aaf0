# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""fake_quantization.py: one pass with fake quantization computes what the real cache computes."""

import pytest
import torch
from calibration_texts import IDS, small_config
from tiny_codebooks import random_codebook, random_layer
from tiny_models import tiny_inputs, tiny_model

from vecinfer_hf import calibrate
from vecinfer_hf.calibration import quantization_loss
from vecinfer_hf.calibration.attention import attention_function, run_body
from vecinfer_hf.calibration.fake_quantization import (
    LayerFakeQuantizer,
    doubled_attention,
    fake_quantized_attention,
    fake_quantized_states,
)
from vecinfer_hf.evaluation import evaluate_perplexity


def fake_quantizers(codebook):
    return {index: LayerFakeQuantizer(layer).requires_grad_(False) for index, layer in codebook.layers.items()}


@pytest.mark.parametrize("residual_length", [1, 16])
def test_it_equals_the_real_cache(residual_length):
    model = tiny_model()
    codebook = calibrate(model, IDS, config=small_config(), progress=False)
    windows = tiny_inputs(2, 36, seed=5)
    options = {"residual_length": residual_length, "sink_length": 2, "sink_choice": "first"}
    real = evaluate_perplexity(model, windows, codebook, chunk_length=1, **options)
    fake = quantization_loss(model, fake_quantizers(codebook), windows, batch_size=2, **options)
    # Two float32 computations of the same sums; a differing near-tie of two centroids would show at 1e-3.
    assert fake.kl == pytest.approx(real.kl_divergence, rel=1e-3)
    assert fake.perplexity_ratio == pytest.approx(real.perplexity_ratio, rel=1e-4)


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss"])
def test_it_equals_the_real_cache_with_softcap_and_sink_logits(family):
    model = tiny_model(family)
    codebook = random_codebook(model.config)
    windows = tiny_inputs(1, 40, seed=5)
    options = {"residual_length": 8, "sink_length": 2, "sink_choice": "first"}
    real = evaluate_perplexity(model, windows, codebook, chunk_length=1, **options)
    fake = quantization_loss(model, fake_quantizers(codebook), windows, **options)
    assert fake.kl == pytest.approx(real.kl_divergence, rel=1e-3)


@pytest.mark.parametrize(("kind", "value_kind"), [("smooth_scale", None), ("matrix", "matrix")])
def test_a_layer_equals_its_two_sides(kind, value_kind):
    codebook = random_layer(2, 16, "d4b8x2", "d8b8", kind=kind, value_kind=value_kind, mean=True)
    keys, values = torch.randn(2, 1, 2, 40, 16)
    layer = LayerFakeQuantizer(codebook).requires_grad_(False)
    for found, expected in zip((layer.key(keys), layer.value(values)), fake_quantized_states(keys, values, codebook),
                               strict=True):  # fmt: skip
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert LayerFakeQuantizer(codebook, ("value",)).key is None


def test_each_query_reads_one_form_of_every_token():
    """With quantized states that carry a mark in an own channel, the output tells which form was read."""
    seen = {}

    def marked(module, query, key, value):
        return key, torch.ones_like(value)

    def run(**options):
        tokens = 12
        query, key = torch.zeros(1, 1, tokens, 8), torch.zeros(1, 1, tokens, 8)
        attention = doubled_attention(marked, 2, 4, sink_choice="first", **options)
        module = torch.nn.Module()
        module.is_causal = True
        # Values in full precision are 0: the output is the fraction of the tokens that was read quantized.
        return attention(module, query, key, torch.zeros(1, 1, tokens, 8), None, 1.0)[0, :, 0, 0]

    seen = run()
    # Query i reads i + 1 tokens: 2 sinks and 4 recent ones in full precision, the rest quantized.
    expected = [max(0, i + 1 - 6) / (i + 1) for i in range(12)]
    torch.testing.assert_close(seen, torch.tensor(expected))
    # In chunks of 3 the window ends with the chunk.
    expected = [max(0, i + 1 - 2 - max(0, 4 - (2 - i % 3))) / (i + 1) if i >= 2 else 0.0 for i in range(12)]
    torch.testing.assert_close(run(chunk_length=3), torch.tensor(expected))
    # A prompt of 9 reads itself in full precision.
    expected = [0.0] * 9 + [(i + 1 - 6) / (i + 1) for i in range(9, 12)]
    torch.testing.assert_close(run(prompt_length=9), torch.tensor(expected))


def test_a_prompt_is_read_in_full_precision():
    model = tiny_model()
    layers = fake_quantizers(random_codebook(model.config, 1, 1))
    ids = tiny_inputs(1, 50)
    with torch.no_grad():
        full_precision = run_body(model, ids)
        with attention_function(model, fake_quantized_attention(layers, 2, 8, 1, 30)):
            mixed = run_body(model, ids)
    torch.testing.assert_close(mixed[:, :30], full_precision[:, :30], rtol=1e-4, atol=1e-4)
    assert (mixed[:, 30:] - full_precision[:, 30:]).abs().amax() > 1e-2


def test_a_layer_gives_its_codebook_back():
    layer = random_layer(2, 16, kind="matrix", value_kind="smooth_scale", mean=True)
    layer.key_centroids[:, 0, 0, 0] = layer.value_centroids[:, 0, 0, 0] = 127
    back = LayerFakeQuantizer(layer).to_codebook()
    for name, value in layer._asdict().items():
        # Full matrices are rounded to 11 bits, and their inverse is that of the rounded one.
        torch.testing.assert_close(getattr(back, name), value, rtol=2e-3, atol=2e-3)
