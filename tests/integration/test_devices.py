# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Models whose weights are somewhere else, spread, shared, adapted or quantized: same codes, same tokens.

test_wrapped_models.py has other wrappers, tests/distributed several processes.
"""

import accelerate
import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_generate import SHORT, greedy, padded_batch
from tiny_models import MIXTURES, tiny_inputs, tiny_model
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from vecinfer_hf import CalibrationConfig, VecInferCache, calibrate, disable, enable
from vecinfer_hf.integration.compat import returned_cache


def tokens_of(model, codebook, **options):
    """Return greedy tokens with codes; they were used, and `disable` brings the default cache back."""
    enable(model, codebook, **SHORT, **options)
    result = greedy(model, 8, return_dict_in_generate=True, **padded_batch(60))
    cache = returned_cache(result)
    assert isinstance(cache, VecInferCache)
    assert all(int(layer.buffers.quantized_lengths.min()) > 0 for layer in cache.quantized_layers)
    disable(model)
    assert type(returned_cache(greedy(model, 2, return_dict_in_generate=True, **padded_batch(60)))) is DynamicCache
    return result.sequences.tolist()


def calibrated(model, recipe="default", **options):
    config = {"sequence_length": 64, "num_tokens": 256, "num_samples": 150, "residual_length": 16, **options}
    return calibrate(model, tiny_inputs(4, 64), config=CalibrationConfig(recipe=recipe, **config), progress=False)


def same_tensors(codebook, other):
    return all(
        torch.equal(one, two)
        for index, layer in codebook.layers.items()
        for one, two in zip(layer, other.layers[index], strict=True)
        if one is not None
    )


def cpu_offloaded(directory):
    return accelerate.cpu_offload(tiny_model(), execution_device=torch.device("cpu"))


def disk_offloaded(directory):
    return accelerate.disk_offload(tiny_model(), directory, execution_device=torch.device("cpu"))


def partly_on_disk(directory):
    """Return a model loaded with a device_map, one of its layers on the disk."""
    tiny_model().save_pretrained(directory / "model")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        directory / "model",
        device_map={**places, "model.rotary_emb": "cpu", "lm_head": "cpu"},
        offload_folder=directory / "offloaded",
    )
    model.generation_config.pad_token_id = 0
    return model


@pytest.mark.parametrize("make", [cpu_offloaded, disk_offloaded, partly_on_disk])
def test_offloaded_weights(make, tmp_path):
    model, plain = make(tmp_path), tiny_model()
    codebook = random_codebook(plain.config)
    expected = tokens_of(plain, codebook)
    assert tokens_of(model, codebook) == expected
    assert tokens_of(model, codebook, static=True) == expected
    recipe = "query" if make is disk_offloaded else "default"
    assert same_tensors(calibrated(model, recipe), calibrated(plain, recipe))


@pytest.mark.slow
@pytest.mark.parametrize("make", [cpu_offloaded, partly_on_disk])
def test_refinement_and_allocation_of_offloaded_weights(make, tmp_path):
    options = {"recipe": "query", "allocate": 2.0, "refine_steps": 2}
    assert same_tensors(calibrated(make(tmp_path), **options), calibrated(tiny_model(), **options))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_layers_on_two_devices(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    places = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1, "model.norm": 1, "lm_head": 1}
    model = AutoModelForCausalLM.from_pretrained(tmp_path, device_map={**places, "model.rotary_emb": 0})
    model.generation_config.pad_token_id = 0
    plain = tiny_model().to("cuda:0")
    codebook, batch = random_codebook(plain.config), {n: t.to("cuda:0") for n, t in padded_batch(60).items()}
    for options in ({}, {"static": True}):
        found = []
        for each in (plain, model):
            enable(each, codebook, **SHORT, **options)
            found.append(greedy(each, 8, **batch).tolist())
            disable(each)
        assert found[0] == found[1]
    for recipe in ("query", "default"):
        one, two = (calibrated(each, recipe, refine_steps=1) for each in (plain, model))
        assert one.errors == [pytest.approx(error, rel=0.1) for error in two.errors]


def test_tied_embeddings(tmp_path):
    model = tiny_model(tie_word_embeddings=True)
    codebook = calibrated(model)
    expected = tokens_of(model, codebook)
    enable(model, codebook)
    model.save_pretrained(tmp_path / "model")
    codebook.save_pretrained(tmp_path / "codebook")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert tokens_of(again, tmp_path / "codebook") == expected


@pytest.mark.parametrize("family", MIXTURES)
def test_mixtures_of_experts(family):
    model = tiny_model(family)
    codebook = calibrated(model)
    assert all(error.key < 0.5 for error in codebook.errors)
    # The same prompt and steps as exact attention: a window that holds everything.
    exact = greedy(model, 8, **padded_batch(60)).tolist()
    enable(model, codebook, residual_length=512)
    assert greedy(model, 8, **padded_batch(60)).tolist() == exact
    assert len(tokens_of(model, codebook)) == 3


# PEFT 0.21 asks transformers 5.24 for an attribute by its old name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_before_and_after_enable():
    peft = pytest.importorskip("peft", reason="needs PEFT, which is no dependency: pip install peft")

    def adapted(model):
        torch.manual_seed(0)
        settings = peft.LoraConfig(target_modules=["q_proj", "k_proj", "v_proj"], r=4, init_lora_weights=False)
        return peft.get_peft_model(model, settings)

    codebook = random_codebook(tiny_model().config)
    before = adapted(tiny_model())
    expected = tokens_of(before, codebook)
    assert expected != tokens_of(tiny_model(), codebook)
    inner = enable(tiny_model(), codebook, **SHORT)
    after = adapted(inner)
    assert greedy(after, 8, **padded_batch(60)).tolist() == expected
    with after.disable_adapter():
        assert greedy(after, 8, **padded_batch(60)).tolist() == tokens_of(tiny_model(), codebook)
    disable(after)
    assert same_tensors(calibrated(after), calibrated(before))
    merged = enable(after.merge_and_unload(), codebook, **SHORT)
    assert greedy(merged, 8, **padded_batch(60)).shape == (3, 68)
