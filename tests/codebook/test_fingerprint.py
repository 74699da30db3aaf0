# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""fingerprint.py: one fingerprint for one set of weights however they are loaded, another one for others."""

import accelerate
import pytest
import torch
from tiny_models import FAMILIES, tiny_config, tiny_model
from transformers import AutoModelForCausalLM, QuantoConfig

from vecinfer_hf import VecInferConfig
from vecinfer_hf.codebook.fingerprint import quantization_of, weights_fingerprint


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A tiny llama in bfloat16, saved in one file and in several."""
    directory = tmp_path_factory.mktemp("fingerprint")
    model = tiny_model("llama", dtype=torch.bfloat16)
    model.save_pretrained(directory / "one")
    model.save_pretrained(directory / "several", max_shard_size="60KB")
    assert len(list((directory / "several").glob("*.safetensors"))) > 2
    return directory, weights_fingerprint(model)


@pytest.mark.parametrize("form", ["one", "several"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
def test_files_and_dtype_do_not_matter(sharded, form, dtype):
    directory, expected = sharded
    model = AutoModelForCausalLM.from_pretrained(directory / form, dtype=dtype)
    assert weights_fingerprint(model) == expected


def test_offloaded_weights_are_read_where_they_lie(sharded, tmp_path):
    directory, expected = sharded
    model = AutoModelForCausalLM.from_pretrained(directory / "one", dtype=torch.bfloat16)
    accelerate.disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    assert next(model.model.layers[0].self_attn.k_proj.parameters()).device.type == "meta"
    assert weights_fingerprint(model) == expected
    assert next(model.model.layers[0].self_attn.k_proj.parameters()).device.type == "meta"


@pytest.mark.parametrize("family", FAMILIES)
def test_other_weights_of_the_same_shape_have_another(family):
    first, second, third = (weights_fingerprint(tiny_model(family, seed=seed)) for seed in (0, 1, 0))
    assert first == third != second
    assert len(first) == 64


def test_a_change_in_place_is_seen():
    model = tiny_model("llama")
    before = weights_fingerprint(model)
    assert weights_fingerprint(model) == before
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight.mul_(1.02)
    assert weights_fingerprint(model) != before


def test_replaced_weights_are_seen():
    model, other = tiny_model("llama"), tiny_model("llama", seed=1)
    before = weights_fingerprint(model)
    model.model.layers[0].self_attn.k_proj.weight = other.model.layers[0].self_attn.k_proj.weight
    assert weights_fingerprint(model) != before


def test_the_name_of_a_model_does_not_matter():
    model = tiny_model("llama")
    before = weights_fingerprint(model)
    model.config._name_or_path = "someone/else"
    assert weights_fingerprint(tiny_model("llama")) == before == weights_fingerprint(model)


@pytest.mark.parametrize(
    ("given", "method"),
    [(None, None), ({"quant_method": "gptq"}, "gptq"), ({"quant_method": "vecinfer"}, None), (VecInferConfig(), None),
     (QuantoConfig(), "quanto")],
)  # fmt: skip
def test_the_method_of_quantized_weights_is_known(given, method):
    config = tiny_config("llama")
    config.quantization_config = given
    assert quantization_of(config) == method


def test_a_part_of_tensor_parallel_weights_is_enough():
    """The first process has the first rows of one kind of matrix and the first columns of the other."""
    model = tiny_model("llama", hidden_size=256, num_attention_heads=16, num_key_value_heads=4)
    before = weights_fingerprint(model)
    for layer in model.model.layers:
        for name in ("q_proj", "k_proj", "v_proj"):
            linear = getattr(layer.self_attn, name)
            linear.weight = torch.nn.Parameter(linear.weight[: len(linear.weight) // 2].clone())
        linear = layer.self_attn.o_proj
        linear.weight = torch.nn.Parameter(linear.weight[:, : linear.weight.shape[1] // 2].clone())
    assert weights_fingerprint(model) == before
