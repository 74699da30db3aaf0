# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M: stock tokens with codes switched off; rows of a padded batch that equal the rows alone at 2 bits."""

import pytest
import torch
from filling import put
from tiny_codebooks import random_codebook
from transformers import CompileConfig
from transformers.cache_utils import DynamicCache

from vecinfer_hf import VecInferCache
from vecinfer_hf.integration.compat import cache_argument


pytestmark = pytest.mark.realmodel

TEXT = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, "
    "this truth is so well fixed in the minds of the surrounding families, that he is considered the rightful "
    "property of some one or other of their daughters."
)
TEXTS = [TEXT, TEXT[:120], TEXT[60:300]]
TOKENS = 200


def prompt(tokenizer, texts):
    return tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")


def long_window(model):
    return VecInferCache(model.config, random_codebook(model.config), residual_length=1024, ops_backend="reference")


def two_bits(model, **options):
    """A cache with the shipped 2-bit codebook and a short window, so that most tokens are codes."""
    codebook = "SmolLM2-135M-Instruct/2bit"
    return VecInferCache(model.config, codebook, residual_length=32, ops_backend="reference", **options)


def generate(model, inputs, tokens=TOKENS, **kwargs):
    kwargs.setdefault("eos_token_id", -1)  # never stop early
    with torch.no_grad():
        return model.generate(**inputs, max_new_tokens=tokens, do_sample=False, pad_token_id=0, **kwargs)


@pytest.mark.parametrize(
    "texts", [TEXTS[:1], pytest.param(TEXTS, marks=pytest.mark.slow)], ids=["one", "left-padded batch"]
)
def test_codes_off_is_the_stock_text(smollm2, smollm2_tokenizer, texts):
    inputs = prompt(smollm2_tokenizer, texts)
    stock = generate(smollm2, inputs)
    assert stock.shape[1] == inputs["input_ids"].shape[1] + TOKENS
    assert torch.equal(stock, generate(smollm2, inputs, **cache_argument(long_window(smollm2))))


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [50, TOKENS])
def test_codes_off_is_the_stock_text_with_beams(smollm2, smollm2_tokenizer, tokens):
    inputs = prompt(smollm2_tokenizer, TEXTS[1:2])
    stock = generate(smollm2, inputs, tokens, num_beams=3)
    assert torch.equal(stock, generate(smollm2, inputs, tokens, num_beams=3, **cache_argument(long_window(smollm2))))


@pytest.mark.slow
def test_codes_off_is_the_stock_text_in_a_second_turn(smollm2, smollm2_tokenizer):
    results = []
    for cache in (DynamicCache(config=smollm2.config), long_window(smollm2)):
        inputs = dict(prompt(smollm2_tokenizer, TEXTS[1:2]))
        for more in ("\nAnd then?", None):
            output = generate(smollm2, inputs, TOKENS // 2, **cache_argument(cache))
            results.append(output)
            if more:
                ids = torch.cat([output, smollm2_tokenizer(more, return_tensors="pt")["input_ids"]], 1)
                inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])


@pytest.mark.slow
def test_a_padded_row_generates_the_same_100_tokens_as_the_row_alone_at_two_bits(smollm2, smollm2_tokenizer):
    inputs = prompt(smollm2_tokenizer, TEXTS)
    together = generate(smollm2, inputs, 100, **cache_argument(two_bits(smollm2)))[:, inputs["input_ids"].shape[1] :]
    for row, text in enumerate(TEXTS):
        alone = prompt(smollm2_tokenizer, [text])
        tokens = generate(smollm2, alone, 100, **cache_argument(two_bits(smollm2)))
        assert torch.equal(tokens[0, alone["input_ids"].shape[1] :], together[row]), f"row {row}"


def test_one_call_chunks_and_single_tokens_give_the_same_codes(smollm2, smollm2_tokenizer):
    """The same keys and values, as the model makes them, stored in three ways."""
    ids = prompt(smollm2_tokenizer, [TEXT])["input_ids"]
    stock = DynamicCache(config=smollm2.config)
    with torch.no_grad():
        smollm2(ids, **cache_argument(stock))
    caches = []
    for step in (ids.shape[1], 17, 1):
        # Sinks are chosen among the tokens of a first call, so only the first ones are the same for all.
        cache = two_bits(smollm2, sink_choice="first")
        for index, layer in enumerate(stock.layers[:6]):
            for start in range(0, ids.shape[1], step):
                part = slice(start, start + step)
                put(cache.layers[index], layer.keys[:, :, part], layer.values[:, :, part])
        caches.append(cache)
    first = caches[0].layers[0]
    assert first.read_lengths().quantized[0] >= 40
    for other in caches[1:]:
        for ours, theirs in zip(caches[0].layers[:6], other.layers[:6], strict=True):
            tiles = -(-ours.read_lengths().quantized[0] // 32)
            assert torch.equal(ours.buffers.codes[:, :, :tiles], theirs.buffers.codes[:, :, :tiles])
            assert torch.equal(ours.buffers.lengths, theirs.buffers.lengths)
            for field in ("sink_keys", "sink_values", "ring_keys", "ring_values"):
                assert torch.equal(getattr(ours.buffers, field), getattr(theirs.buffers, field))


@pytest.mark.slow
def test_a_compiled_static_cache_gives_the_tokens_of_the_dynamic_one(smollm2, smollm2_tokenizer):
    inputs = prompt(smollm2_tokenizer, TEXTS[:1])
    # The same float32 operators in the same order, traced once.
    config = CompileConfig(backend="aot_eager", mode="default", fullgraph=True)
    config._compile_all_devices = True
    static = VecInferCache(
        smollm2.config, "SmolLM2-135M-Instruct/2bit", residual_length=32, static=True, max_cache_len=400
    )
    compiled = generate(smollm2, inputs, 100, **cache_argument(static), compile_config=config)
    assert torch.equal(compiled, generate(smollm2, inputs, 100, **cache_argument(two_bits(smollm2))))
