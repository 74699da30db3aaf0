# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""hf_quantizer.py: from_pretrained(quantization_config=VecInferConfig(...)) enables the cache, the weights stay."""

import json

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model
from transformers import AutoModel, AutoModelForCausalLM
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

from vecinfer_hf import CodebookError, UnsupportedModelError, VecInferCache, VecInferConfig, disable, enable
from vecinfer_hf.integration.compat import returned_cache
from vecinfer_hf.integration.hf_quantizer import VecInferQuantizer


@pytest.fixture
def saved(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path / "model")
    random_codebook(model.config).save_pretrained(tmp_path / "codebook")
    return tmp_path


def load(saved, cls=AutoModelForCausalLM, directory="model", **options):
    config = VecInferConfig(codebook=str(saved / "codebook"), residual_length=8, ops_backend="reference", **options)
    return cls.from_pretrained(saved / directory, quantization_config=config, dtype=torch.float32)


def test_it_is_registered_under_its_name():
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["vecinfer"] is VecInferConfig
    assert AUTO_QUANTIZER_MAPPING["vecinfer"] is VecInferQuantizer


def test_weights_are_untouched_and_the_cache_is_on(saved):
    original, model = tiny_model("llama"), load(saved)
    for (name, ours), (_, theirs) in zip(model.named_parameters(), original.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
        assert ours.dtype == torch.float32
    output = model.generate(tiny_inputs(1, 40), max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    assert isinstance(returned_cache(output), VecInferCache)
    assert returned_cache(output).layers[0].residual_length == 8


def test_round_trip_through_disk_needs_no_arguments(saved):
    model = load(saved, sink_length=2)
    model.save_pretrained(saved / "again")
    written = json.loads((saved / "again" / "config.json").read_text())["quantization_config"]
    assert written["quant_method"] == "vecinfer"
    assert written["codebook"] is None  # it lies beside the weights
    loaded = AutoModelForCausalLM.from_pretrained(saved / "again", dtype=torch.float32)
    options, expected = (each.config.quantization_config.options() for each in (loaded, model))
    assert options == {name: value for name, value in expected.items() if name != "codebook"}
    assert loaded.generation_config.cache_config == {"backend": "vecinfer", **options}
    outputs = [each.generate(tiny_inputs(1, 40), max_new_tokens=20, do_sample=False) for each in (model, loaded)]
    assert torch.equal(*outputs)


def test_a_static_cache_is_sized_per_call_also_after_saving(saved):
    model = load(saved, static=True)
    model.save_pretrained(saved / "again")
    loaded = AutoModelForCausalLM.from_pretrained(saved / "again", dtype=torch.float32)
    dynamic = load(saved)
    wanted = dynamic.generate(tiny_inputs(1, 40), max_new_tokens=20, do_sample=False)
    for each in (model, loaded):
        output = each.generate(tiny_inputs(1, 40), max_new_tokens=20, do_sample=False, return_dict_in_generate=True)
        assert returned_cache(output).is_compileable
        assert torch.equal(output.sequences, wanted)


def test_the_users_config_is_not_changed_and_serves_several_models(saved, tmp_path):
    """Each saved model names what was found for it."""
    config = VecInferConfig(str(saved), subfolder="codebook")
    before = config.to_dict()
    first = AutoModelForCausalLM.from_pretrained(saved / "model", quantization_config=config, dtype=torch.float32)
    assert config.to_dict() == before
    assert first.config.quantization_config is not config
    second = AutoModelForCausalLM.from_pretrained(saved / "model", quantization_config=config, dtype=torch.float32)
    assert first.config.quantization_config == second.config.quantization_config
    assert first.config.quantization_config is not second.config.quantization_config


def test_disable_gives_a_plain_model_that_is_saved_as_one(saved):
    model = disable(load(saved))
    assert getattr(model.config, "quantization_config", None) is None
    assert model.generation_config.cache_config is None
    assert model.config._attn_implementation == "sdpa"
    model.save_pretrained(saved / "plain")
    assert "vecinfer" not in (saved / "plain" / "config.json").read_text()
    loaded = AutoModelForCausalLM.from_pretrained(saved / "plain", dtype=torch.float32)
    output = loaded.generate(tiny_inputs(1, 40), max_new_tokens=3, return_dict_in_generate=True)
    assert not isinstance(returned_cache(output), VecInferCache)


def test_enable_after_loading_counts_when_saved(saved):
    model = enable(load(saved), str(saved / "codebook"), residual_length=32)
    model.save_pretrained(saved / "again")
    loaded = AutoModelForCausalLM.from_pretrained(saved / "again", dtype=torch.float32)
    output = loaded.generate(tiny_inputs(1, 40), max_new_tokens=3, return_dict_in_generate=True)
    assert returned_cache(output).layers[0].residual_length == 32


VERSION_0_1 = {
    "key_bits": 2, "layer_bits": None, "max_cache_len": None, "num_iterations": 20, "num_samples": 16384,
    "num_tokens": 65536, "ops_backend": "reference", "quant_method": "vecinfer", "recipe": "default",
    "residual_length": 16, "revision": None, "seed": 0, "sequence_length": 2048, "sink_choice": "small_values",
    "sink_length": 4, "static": False, "subfolder": None, "trusted_owners": None, "value_bits": 2,
}  # fmt: skip
"""What version 0.1 wrote into config.json for VecInferConfig(codebook=..., residual_length=16, ...)."""


@pytest.mark.parametrize("where", ["quantization_config", "cache_config"])
def test_a_model_that_version_0_1_saved_loads(saved, where):
    directory = saved / "model"
    if where == "quantization_config":
        config = json.loads((directory / "config.json").read_text())
        config["quantization_config"] = {**VERSION_0_1, "codebook": str(saved / "codebook")}
        (directory / "config.json").write_text(json.dumps(config))
    generation = json.loads((directory / "generation_config.json").read_text())
    generation["cache_config"] = {
        "backend": "vecinfer", "codebook": str(saved / "codebook"), "ops_backend": "reference", "residual_length": 16,
    }  # fmt: skip
    (directory / "generation_config.json").write_text(json.dumps(generation))
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    output = model.generate(tiny_inputs(1, 40), max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    assert returned_cache(output).layers[0].residual_length == 16
    disable(model)
    output = model.generate(tiny_inputs(1, 40), max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    assert not isinstance(returned_cache(output), VecInferCache)


def test_the_model_stays_an_ordinary_one(saved):
    """No quantized mark: casts, moves and training work."""
    model = load(saved)
    assert not getattr(model, "is_quantized", False)
    model.half().float().to("cpu")
    loss = model(tiny_inputs(1, 10), labels=tiny_inputs(1, 10)).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_model_that_does_not_generate_is_loaded_as_it_is(saved):
    model = load(saved, cls=AutoModel)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("case", ["no codebook", "missing", "other model"])
def test_failures_come_at_load_time(saved, case):
    options = {"codebook": None}
    if case == "missing":
        options = {"codebook": str(saved / "nowhere")}
    elif case == "other model":
        random_codebook(tiny_model("llama_mha").config).save_pretrained(saved / "other")
        options = {"codebook": str(saved / "other")}
    with pytest.raises((CodebookError, OSError), match=r"(?s)calibrate|nowhere"):
        AutoModelForCausalLM.from_pretrained(
            saved / "model", quantization_config=VecInferConfig(**options), dtype=torch.float32
        )


def test_a_model_that_is_not_supported_is_refused_at_load_time(tmp_path):
    import transformers

    config = transformers.FalconConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    transformers.FalconForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="No VecInfer cache for this model.*FalconForCausalLM"):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=VecInferConfig(codebook="x"))


@pytest.mark.parametrize("name", ["is_serializable", "param_needs_quantization"])
def test_what_transformers_asks_without_arguments(name):
    quantizer = VecInferQuantizer(VecInferConfig())
    assert getattr(quantizer, name)() is (name == "is_serializable")
    assert quantizer.is_trainable
    assert quantizer.is_qat_trainable
    assert quantizer.is_compileable
    assert quantizer.update_dtype(torch.float16) == torch.float16
    assert quantizer.update_device_map("auto") == "auto"
    assert quantizer.update_attn_implementation("eager") == "eager"
    assert quantizer.get_state_dict_and_metadata() == (None, {})
    quantizer.validate_environment(device_map="auto")
