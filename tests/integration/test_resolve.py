# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""resolve.py: the codebook and the options that a user's words mean, read once, and freed when nobody uses them."""

import gc
import os
import weakref
from dataclasses import fields

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_config, tiny_inputs, tiny_model

from vecinfer_hf import Codebook, CodebookError, ConfigError, VecInferConfig, disable, enable
from vecinfer_hf.integration import resolve as module
from vecinfer_hf.integration.resolve import forget_codebooks, resolve


@pytest.fixture(autouse=True)
def _nothing_in_memory():
    forget_codebooks()


@pytest.fixture
def directory(tmp_path):
    random_codebook(tiny_config("llama")).save_pretrained(tmp_path / "codebook")
    return tmp_path / "codebook"


def load(name, **options):
    return resolve(tiny_config("llama"), name, **options)[0]


def test_every_form_means_the_same_codebook_and_options(directory):
    model = tiny_model("llama")
    options = {"residual_length": 8, "sink_length": 2}
    forms = {
        "name": (str(directory), options),
        "path": (directory, options),
        "config": (VecInferConfig(str(directory), **options), {}),
        "config and options": (
            VecInferConfig(str(directory), residual_length=99, sink_length=2),
            {"residual_length": 8},
        ),
    }
    for name, (codebook, given) in forms.items():
        for where in (model, model.config):
            found, config = resolve(where, codebook, **given)
            assert config == VecInferConfig(str(directory), **options), name
            assert found is load(directory), name
    made = random_codebook(model.config)
    assert resolve(model, made, **options) == (made, VecInferConfig(**options))


def test_options_that_are_none_are_not_given(directory):
    nothing = {field.name: None for field in fields(VecInferConfig) if field.name not in ("codebook", "quant_method")}
    config = VecInferConfig(str(directory), residual_length=8)
    assert resolve(tiny_config("llama"), config, **nothing)[1] == config


@pytest.mark.parametrize("codebook", [7, ["x"], {"codebook": "x"}], ids=str)
def test_what_names_nothing_is_refused(codebook):
    with pytest.raises(ConfigError, match=f"codebook is a {type(codebook).__name__}"):
        load(codebook)


def test_a_typo_is_refused_before_anything_is_read(directory, monkeypatch):
    monkeypatch.setattr(Codebook, "from_pretrained", None)
    with pytest.raises(ConfigError, match=r"no option\(s\) \['residual_lenght'\].*residual_length"):
        load(directory, residual_lenght=3)


@pytest.mark.parametrize("name", ["key_bits", "value_bits"])
@pytest.mark.parametrize("form", ["name", "config", "object"])
def test_bits_that_contradict_the_codebook_are_refused(directory, name, form):
    codebook = {"name": directory, "config": VecInferConfig(str(directory)), "object": load(directory)}[form]
    assert load(codebook, **{name: 2}).bits_per_element == 2
    with pytest.raises(ConfigError, match=f"{name}=1 was asked for, but the codebook has"):
        load(codebook, **{name: 1})


def test_it_is_read_once(directory, monkeypatch):
    first = load(directory)
    monkeypatch.setattr(Codebook, "from_pretrained", None)
    assert load(directory) is first


def test_one_that_was_calibrated_again_is_read_again(directory):
    first = load(directory)
    random_codebook(tiny_config("llama"), 4, 4).save_pretrained(directory)
    file = directory / "codebook.safetensors"
    os.utime(file, ns=(file.stat().st_mtime_ns, file.stat().st_mtime_ns + 1000))
    second = load(directory)
    assert (first.bits_per_element, second.bits_per_element) == (2, 4)


def test_memory_holds_the_last_few_and_forgets_when_told(tmp_path):
    """A codebook that a model or a cache uses is never read again; of the others a few stay."""
    names = []
    for index in range(7):
        random_codebook(tiny_config("llama"), seed=index).save_pretrained(tmp_path / str(index))
        names.append(tmp_path / str(index))
    used = load(names[0])
    alive = [weakref.ref(load(name)) for name in names[1:]]
    gc.collect()
    assert [each() is not None for each in alive] == [False, False, True, True, True, True]
    assert load(names[0]) is used
    forget_codebooks()
    gc.collect()
    assert not any(each() for each in alive)
    assert not module._loaded
    assert used.bits_per_element == 2


def test_a_disabled_model_keeps_no_codebook(directory):
    model = enable(tiny_model("llama"), directory, ops_backend="reference")
    codebook = weakref.ref(model._vecinfer.codebook)
    model.generate(tiny_inputs(1, 40), max_new_tokens=3, do_sample=False)
    forget_codebooks()
    gc.collect()
    assert codebook() is not None
    disable(model)
    gc.collect()
    assert codebook() is None


def test_an_enabled_model_reads_nothing_in_a_call(directory, monkeypatch):
    model = enable(tiny_model("llama"), directory, ops_backend="reference")
    forget_codebooks()
    monkeypatch.setattr(Codebook, "from_pretrained", None)
    assert model.generate(tiny_inputs(1, 40), max_new_tokens=3, do_sample=False).shape == (1, 43)


def test_subfolders_are_different_codebooks(tmp_path):
    for bits in (2, 4):
        random_codebook(tiny_config("llama"), bits, bits).save_pretrained(tmp_path / f"{bits}bit")
    assert [load(tmp_path, subfolder=f"{bits}bit").bits_per_element for bits in (2, 4)] == [2, 4]


def test_home_directory_is_expanded(directory, monkeypatch):
    monkeypatch.setenv("HOME", str(directory.parent))
    assert torch.equal(load("~/codebook").layers[0].key_centroids, load(directory).layers[0].key_centroids)


def test_a_failure_is_not_remembered(directory):
    content = (directory / "codebook.safetensors").read_bytes()
    (directory / "codebook.safetensors").write_bytes(content[:100])
    with pytest.raises(CodebookError):
        load(directory)
    (directory / "codebook.safetensors").write_bytes(content)
    assert load(directory).bits_per_element == 2


@pytest.mark.parametrize("name", [None, "auto", VecInferConfig(), VecInferConfig("auto")], ids=str)
def test_auto_finds_nothing_for_an_unknown_model_and_says_what_to_do(name):
    with pytest.raises(CodebookError, match=r"codebook=.auto. found none.*vecinfer calibrate"):
        load(name)


def test_auto_takes_the_bits_that_were_asked_for(tmp_path, monkeypatch):
    """What another call found with other bits or other owners is no answer."""
    from vecinfer_hf.hub import local_places, search

    asked = []
    monkeypatch.setattr(local_places, "same_name", lambda *_: True)

    def candidates(config, *, key_bits, value_bits, trusted_owners):
        asked.append((key_bits, value_bits, trusted_owners))
        for bits in (2, 4):
            directory = tmp_path / str(bits)
            random_codebook(config, bits, bits).save_pretrained(directory)
            yield search.FoundCodebook(str(directory), "hub", True, "a test says so")

    monkeypatch.setattr(search, "candidates", candidates)
    assert load("auto").bits_per_element == 2
    assert load("auto", key_bits=4, value_bits=4).bits_per_element == 4
    assert load("auto", key_bits=4).source == {"codebook": str(tmp_path / "4")}
    load("auto", trusted_owners=["someone"])
    load(None)
    assert asked == [(None, None, None), (4, 4, None), (4, None, None), (None, None, ["someone"])]
