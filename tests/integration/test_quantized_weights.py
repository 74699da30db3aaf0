# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Weights in few bits by quanto, torchao, bitsandbytes or GGUF: the same codes as over the weights they stand for."""

import gguf
import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_generate import SHORT, greedy, padded_batch
from tiny_models import tiny_inputs, tiny_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, QuantoConfig, TorchAoConfig

from vecinfer_hf import CalibrationConfig, VecInferCache, calibrate, disable, enable
from vecinfer_hf.integration.compat import returned_cache


def quanto(directory):
    pytest.importorskip("optimum.quanto", reason="needs quanto: pip install optimum-quanto")
    return AutoModelForCausalLM.from_pretrained(directory, quantization_config=QuantoConfig(weights="int8"))


def torchao(directory):
    quantization = pytest.importorskip("torchao.quantization", reason="needs torchao: pip install torchao")
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    return AutoModelForCausalLM.from_pretrained(directory, quantization_config=config)


def from_gguf(directory):
    """Return the tiny model from a GGUF file with weights of 8 bits."""
    config = tiny_model().config
    writer = gguf.GGUFWriter(directory / "tiny.gguf", "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    parts |= {f"self_attn.{name}_proj": f"attn_{name}" for name in "qkv"} | {"self_attn.o_proj": "attn_output"}
    parts |= {f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")}
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    names |= {f"model.layers.{n}.{own}": f"blk.{n}.{its}" for n in range(2) for own, its in parts.items()}
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, weight in tiny_model().state_dict().items():
        weight = weight.numpy()
        target = f"{names[name.removesuffix('.weight')]}.weight"
        if weight.ndim == 1:
            writer.add_tensor(target, weight)
        else:
            # llama.cpp's order of the rows of queries and keys differs, which transformers undoes; any order will do.
            writer.add_tensor(target, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return AutoModelForCausalLM.from_pretrained(directory, gguf_file="tiny.gguf", dtype=torch.float32)


def restored(model):
    """Return a plain model with the weights that the quantized ones stand for."""
    plain = tiny_model()
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            weight = model.get_parameter(name)
            parameter.copy_(weight.dequantize() if hasattr(weight, "dequantize") else weight)
    return plain


def tokens_of(model, codebook, **options):
    """Return greedy tokens with codes, which were used."""
    enable(model, codebook, **SHORT, **options)
    result = greedy(model, 8, return_dict_in_generate=True, **padded_batch(60))
    cache = returned_cache(result)
    assert isinstance(cache, VecInferCache)
    assert int(cache.quantized_layers[0].buffers.quantized_lengths.min()) > 0
    disable(model)
    return result.sequences.tolist()


CONFIG = CalibrationConfig(sequence_length=64, num_tokens=256, num_samples=150, residual_length=16)


# torchao and quanto call what torch deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("make", [quanto, torchao, from_gguf])
def test_quantized_weights(make, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    model = make(tmp_path)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
    codebook, plain, found = random_codebook(model.config), restored(model), []
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(plain.get_parameter(name), tiny_model().get_parameter(name))
    for each in (model, plain):
        found += [tokens_of(each, codebook, **options) for options in ({}, {"static": True})]
    assert found == [found[0]] * 4
    one, two = (calibrate(each, tiny_inputs(4, 64), config=CONFIG, progress=False) for each in (model, plain))
    assert one.errors == [pytest.approx(error, rel=0.05) for error in two.errors]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_weights_of_8_bits_by_bitsandbytes(tmp_path):
    """No plain weights stand for these: activations are quantized, too."""
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install bitsandbytes")
    tiny_model().save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
    codebook = calibrate(model, tiny_inputs(4, 64), config=CONFIG, progress=False)
    assert all(error.key < 0.5 for error in codebook.errors)
    assert tokens_of(model, codebook) == tokens_of(model, codebook, static=True)
