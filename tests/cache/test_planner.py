# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The planner's bytes are those of caches that are really allocated."""

import json

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_config, tiny_inputs, tiny_model
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from vecinfer_hf import CalibrationConfig, VecInferCache
from vecinfer_hf.cache.planner import stock_plan, vecinfer_plan, weight_bytes
from vecinfer_hf.cli.app import main
from vecinfer_hf.cli.plan import parse_memory
from vecinfer_hf.integration.compat import cache_argument
from vecinfer_hf.model_info import full_attention_layers
from vecinfer_hf.quantization.packing import TILE


WINDOW, SINKS = 16, 4


@pytest.mark.parametrize("family", ["llama", "llama_mha", "qwen2", "gemma3"])
@pytest.mark.parametrize("bits", [4, 2, 1.5, 1.25, 1])
def test_vecinfer_bytes_equal_the_allocated_ones(family, bits):
    model = tiny_model(family)
    model.set_attn_implementation("vecinfer")
    codebook = random_codebook(model.config, bits, bits)
    # A whole number of tiles, because the last one is allocated as a whole.
    tokens = SINKS + WINDOW + 3 * TILE
    cache = VecInferCache(model.config, codebook, residual_length=WINDOW, sink_length=SINKS)
    with torch.no_grad():
        model(tiny_inputs(2, tokens), **cache_argument(cache))
    formats = CalibrationConfig(key_bits=bits, value_bits=bits).formats(len(full_attention_layers(model.config)))
    plan = vecinfer_plan(model.config, formats, WINDOW, SINKS, torch.float32)
    # A stock sliding layer is a view of the whole prompt until the next token; count what it refers to.
    sliding = [layer for layer in cache.layers if layer not in cache.quantized_layers]
    viewed = sum(layer.keys.nbytes + layer.values.nbytes for layer in sliding)
    allocated = sum(layer.nbytes for layer in cache.quantized_layers) + viewed
    # The integer part of a fractional number of bytes per token is off by less than one byte per sequence.
    assert abs(plan.nbytes(tokens, batch_size=2) - allocated) <= 2


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_stock_bytes_equal_the_allocated_ones(family):
    model = tiny_model(family)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(tiny_inputs(2, 90), **cache_argument(cache))
    allocated = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert stock_plan(model.config, torch.float32).nbytes(90, batch_size=2) == allocated


def test_weights_are_counted_once_when_tied():
    for tied in (False, True):
        config = tiny_config("llama", tie_word_embeddings=tied)
        model = AutoModelForCausalLM.from_config(config)
        assert weight_bytes(config, torch.bfloat16) == 2 * sum(p.numel() for p in model.parameters())


def test_longest_context_and_largest_batch_are_the_last_that_fit():
    config = tiny_config("llama")
    plan = vecinfer_plan(config, CalibrationConfig().formats(2), WINDOW, SINKS, torch.bfloat16)
    tokens = plan.longest_context(10**7, batch_size=3)
    assert plan.nbytes(tokens, 3) <= 10**7 < plan.nbytes(tokens + 1, 3)
    batch = plan.largest_batch(10**7, 1000)
    assert plan.nbytes(1000, batch) <= 10**7 < plan.nbytes(1000, batch + 1)
    assert plan.longest_context(10) == plan.largest_batch(10, 1000) == 0


@pytest.mark.parametrize(("text", "expected"), [("24GB", 24 * 10**9), ("1.5 GiB", 1610612736), ("900mb", 9 * 10**8)])
def test_memory_is_read(text, expected):
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["24", "GB", "24 XB", "-1GB"])
def test_memory_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match="is no amount of memory"):
        parse_memory(text)


def test_the_command(tmp_path, capsys):
    tiny_config("llama", head_dim=64).save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["plan", str(tmp_path), "--gpu-memory", "24GB", "--json"])
    assert stopped.value.code == 0
    rows = json.loads(capsys.readouterr().out)["plans"]
    contexts = [row["longest_context"] for row in rows]
    assert contexts == sorted(set(contexts))
    with pytest.raises(SystemExit) as stopped:
        main(["plan", str(tmp_path), "--gpu-memory", "1MB"])
    assert stopped.value.code == 2
    assert "leave nothing" in capsys.readouterr().err
