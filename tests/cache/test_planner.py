# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The planner's bytes are those of caches that are really allocated."""

import json

import pytest
import torch
import transformers
from model_families import FAMILIES, family_model, is_available
from tiny_codebooks import random_codebook
from tiny_models import tiny_config, tiny_inputs, tiny_model
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from vecinfer_hf import CalibrationConfig, ConfigError, VecInferCache
from vecinfer_hf.cache.planner import stock_plan, vecinfer_plan
from vecinfer_hf.cache.weights import checkpoint_bits, checkpoint_dtype, weight_bytes
from vecinfer_hf.cli.app import main
from vecinfer_hf.cli.plan import parse_memory
from vecinfer_hf.evaluation.memory import cache_nbytes
from vecinfer_hf.integration.attention_switch import use_vecinfer_attention
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
    plan = vecinfer_plan(model.config, formats, WINDOW, SINKS, torch.float32, matrices=False)
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


@pytest.mark.sampled(6)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_plan_of_every_family_is_what_is_allocated(family):
    """Within 2 percent: the last tile of a row is allocated as a whole."""
    if not is_available(family):
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    model = family_model(family)
    generator, length = torch.Generator().manual_seed(0), SINKS + WINDOW + 40 * TILE
    ids = torch.randint(2, 90, (2, length), generator=generator)
    default = DynamicCache(config=model.config)
    with torch.no_grad():
        for part in ids.split(length // 2, dim=1):
            model(part, logits_to_keep=1, **cache_argument(default))
    use_vecinfer_attention(model)
    codebook = random_codebook(model.config, kind="matrix", mean=True, value_kind="matrix")
    cache = VecInferCache(model.config, codebook, residual_length=WINDOW, sink_length=SINKS, ops_backend="reference")
    with torch.no_grad():
        for part in ids.split(length // 2, dim=1):
            model(part, logits_to_keep=1, **cache_argument(cache))
    formats = CalibrationConfig().formats(len(codebook.layers))
    plan = vecinfer_plan(model.config, formats, WINDOW, SINKS, torch.float32)
    # Values have no mean in the plan, as calibration makes them.
    means = sum(4 * layer.value_mean.numel() for layer in codebook.layers.values())
    for planned, held in ((plan, cache), (stock_plan(model.config, torch.float32), default)):
        # On a CPU codes read matrices from a copy in another order; an accelerator holds that copy alone.
        allocated = cache.nbytes - means if held is cache else cache_nbytes(default)
        # A sliding layer that got half the prompt in one call is a view of that half.
        for layer in held.layers:
            if getattr(layer, "is_sliding", False) and layer.is_initialized:
                allocated -= sum(
                    states.untyped_storage().nbytes() - states.nbytes for states in (layer.keys, layer.values)
                )
        assert abs(planned.nbytes(length, batch_size=2) - allocated) <= 0.02 * allocated


@pytest.mark.parametrize(
    ("given", "bits"),
    [
        (None, None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4.15625),
        ({"quant_method": "mxfp4"}, 4.25),
        ({"quant_method": "fp8"}, 8),
    ],
    ids=str,
)
def test_the_bits_of_a_checkpoint_are_read(given, bits):
    config = tiny_config("llama", **({} if given is None else {"quantization_config": given}))
    assert checkpoint_bits(config) == bits


def test_an_unknown_quantization_asks_for_the_bits():
    with pytest.raises(ConfigError, match="'other'.*--weights-bits"):
        checkpoint_bits(tiny_config("llama", quantization_config={"quant_method": "other"}))


def test_embeddings_and_vectors_keep_the_dtype():
    config = tiny_config("llama")
    assert checkpoint_dtype(config) == torch.bfloat16
    model = AutoModelForCausalLM.from_config(config)
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() > 1 and "layers." in name)
    others = sum(p.numel() for p in model.parameters()) - matrices
    assert weight_bytes(config, torch.bfloat16, 4) == matrices // 2 + 2 * others


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


def test_several_gpus_and_quantized_weights(tmp_path, capsys):
    tiny_config("llama", head_dim=64, max_position_embeddings=4096).save_pretrained(tmp_path)

    def figures(*options):
        with pytest.raises(SystemExit) as stopped:
            main(["plan", str(tmp_path), "--gpu-memory", "4GB", "--reserve", "1GB", "--json", *options])
        assert stopped.value.code == 0
        return json.loads(capsys.readouterr().out)

    one, four = figures(), figures("--gpus", "4")
    assert four["budget_bytes"] == 4 * 3 * 10**9 - one["weight_bytes"]
    assert figures("--weights-bits", "4")["weight_bytes"] < one["weight_bytes"] / 2
    assert one["weights"] == "bfloat16"
    assert one["position_limit"] == 4096
    assert all(row["longest_context"] == 4096 < row["tokens"] for row in one["plans"])


def test_the_command(tmp_path, capsys):
    tiny_config("llama", head_dim=64).save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["plan", str(tmp_path), "--gpu-memory", "24GB", "--json"])
    assert stopped.value.code == 0
    rows = json.loads(capsys.readouterr().out)["plans"]
    contexts = [row["tokens"] for row in rows]
    assert contexts == sorted(set(contexts))
    with pytest.raises(SystemExit) as stopped:
        main(["plan", str(tmp_path), "--gpu-memory", "1MB"])
    assert stopped.value.code == 2
    assert "leave nothing" in capsys.readouterr().err
