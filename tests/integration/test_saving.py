# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""saving.py: the codebook goes with the model, and is found beside the weights wherever they are."""

import json

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_config, tiny_inputs, tiny_model
from transformers import AutoModelForCausalLM

from vecinfer_hf import Codebook, VecInferCache, VecInferConfig, disable, enable
from vecinfer_hf.codebook.fingerprint import weights_fingerprint
from vecinfer_hf.integration.resolve import forget_codebooks, resolve


@pytest.fixture(autouse=True)
def _nothing_in_memory():
    forget_codebooks()


@pytest.fixture
def made(tmp_path):
    """A codebook of the tiny llama that was made in this process."""
    return random_codebook(tiny_config("llama"))


def same(one: Codebook, other: Codebook) -> bool:
    return all(
        torch.equal(getattr(layer, name), getattr(other.layers[index], name))
        for index, layer in one.layers.items()
        for name in ("key_centroids", "value_centroids")
    )


def saved_entry(directory):
    return json.loads((directory / "generation_config.json").read_text())["cache_config"]


@pytest.mark.parametrize("form", ["object", "directory", "config"])
def test_a_saved_model_has_its_codebook_beside_its_weights(tmp_path, made, form):
    made.save_pretrained(tmp_path / "somewhere")
    forms = {
        "object": made,
        "directory": str(tmp_path / "somewhere"),
        "config": VecInferConfig(str(tmp_path / "somewhere"), residual_length=16),
    }
    model = enable(tiny_model("llama"), forms[form])
    before = dict(model.generation_config.cache_config)
    model.save_pretrained(tmp_path / "model")
    assert model.generation_config.cache_config == before
    assert "save_pretrained" not in vars(model.generation_config)
    assert not {"codebook", "revision", "subfolder"} & set(saved_entry(tmp_path / "model"))
    (tmp_path / "model").rename(tmp_path / "moved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "moved")
    found, options = resolve(loaded, loaded.generation_config.cache_config.get("codebook"))
    assert same(found, made)
    expected = model.generate(tiny_inputs(), max_new_tokens=12)
    assert torch.equal(loaded.generate(tiny_inputs(), max_new_tokens=12), expected)
    if form == "config":
        assert loaded.generation_config.cache_config["residual_length"] == 16


def test_a_loaded_model_that_is_saved_again_keeps_it(tmp_path, made):
    enable(tiny_model("llama"), made).save_pretrained(tmp_path / "first")
    AutoModelForCausalLM.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert same(Codebook.from_pretrained(tmp_path / "second" / "vecinfer"), made)


def test_a_disabled_model_is_saved_without(tmp_path, made):
    disable(enable(tiny_model("llama"), made)).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "vecinfer").exists()
    assert "cache_config" not in json.loads((tmp_path / "model" / "generation_config.json").read_text())


def test_a_model_with_a_quantization_config_keeps_it_too(tmp_path, made):
    made.save_pretrained(tmp_path / "somewhere")
    tiny_model("llama").save_pretrained(tmp_path / "plain")
    config = VecInferConfig(str(tmp_path / "somewhere"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=config)
    model.save_pretrained(tmp_path / "model")
    assert model.config.quantization_config.codebook == str(tmp_path / "somewhere")
    stored = json.loads((tmp_path / "model" / "config.json").read_text())["quantization_config"]
    assert stored["codebook"] is None
    (tmp_path / "somewhere").rename(tmp_path / "away")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert same(resolve(loaded)[0], made)


def test_a_shipped_codebook_keeps_its_name(tmp_path, monkeypatch, made):
    from vecinfer_hf.integration import saving

    made.save_pretrained(tmp_path / "tiny" / "2bit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(saving, "shipped_names", lambda: ["tiny/2bit"])
    enable(tiny_model("llama"), "tiny/2bit").save_pretrained(tmp_path / "model")
    assert saved_entry(tmp_path / "model")["codebook"] == "tiny/2bit"
    assert (tmp_path / "model" / "vecinfer" / "config.json").is_file()


def test_a_relative_name_may_lie_in_the_models_directory(tmp_path, made):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    made.save_pretrained(tmp_path / "model" / "codebooks" / "2bit")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert same(VecInferCache(model, "codebooks/2bit").codebook, made)
    assert same(VecInferCache(model, "codebooks", subfolder="2bit").codebook, made)
    assert same(VecInferCache(model, "./codebooks/2bit").codebook, made)


def test_a_codebook_for_other_weights_beside_the_model_is_passed_over(tmp_path, made, monkeypatch):
    """Weights that were trained on and saved over the old ones: the folder is still there."""
    from vecinfer_hf.integration import make

    model = tiny_model("llama")
    made.weights_fingerprint = weights_fingerprint(model)
    enable(model, made).save_pretrained(tmp_path / "model")
    disable(model)
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight.mul_(2)
    model.save_pretrained(tmp_path / "model")
    other = random_codebook(model.config, seed=7)
    monkeypatch.setenv("VECINFER_MAKE_CODEBOOK", "1")
    monkeypatch.setattr(make, "make_codebook", lambda *args, **options: other)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert resolve(loaded)[0] is other


def test_a_damaged_codebook_beside_the_model_is_an_error(tmp_path, made):
    enable(tiny_model("llama"), made).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "vecinfer" / "codebook.safetensors").write_bytes(b"")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="vecinfer"):
        loaded.generate(tiny_inputs(), max_new_tokens=2)


def test_a_failed_save_leaves_the_model_as_it_was(tmp_path, made):
    model = enable(tiny_model("llama"), made)
    (tmp_path / "model" / "vecinfer").mkdir(parents=True)
    (tmp_path / "model" / "vecinfer" / "config.json").write_text("not a codebook's")
    before = dict(model.generation_config.cache_config)
    with pytest.raises(ValueError, match="Cannot save a codebook"):
        model.save_pretrained(tmp_path / "model")
    assert model.generation_config.cache_config == before
    assert "save_pretrained" not in vars(model.generation_config)
