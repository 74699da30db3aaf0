# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""format_1.py: what version 0.1 saved loads as before, becomes format 2 when saved, and is checked as strictly."""

import json

import pytest
import torch
from codebook_edits import CONFIG_NAME, TENSORS_NAME, edit_config, edit_tensors, refused
from format_1 import save_format_1
from safetensors.torch import load_file
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf import CalibrationConfig, Codebook
from vecinfer_hf.codebook.codebook import LayerError


def make(family="llama", **kwargs):
    codebook = random_codebook(tiny_config(family), 4, 2, **kwargs)
    codebook.provenance = {"texts": [{"name": "a"}], "errors": [{"layer": 1, "key": 0.1, "value": 0.2}]}
    codebook.metrics = {"quality": [{"ratio": 1.01}]}
    return codebook


@pytest.fixture
def saved(tmp_path):
    save_format_1(make(), tmp_path / "codebook")
    return tmp_path / "codebook"


@pytest.mark.parametrize("family", ["llama", "llama_mha", "gemma3"])
@pytest.mark.parametrize("kind", ["smooth_scale", "matrix"])
@pytest.mark.parametrize("value_kind", [None, "smooth_scale", "matrix"])
def test_it_loads_as_it_was_and_becomes_format_2(family, kind, value_kind, tmp_path):
    codebook = make(family, kind=kind, value_kind=value_kind, mean=True)
    save_format_1(codebook, tmp_path / "old")
    loaded = Codebook.from_pretrained(tmp_path / "old")
    loaded.check_model(tiny_config(family))
    loaded.save_pretrained(tmp_path / "new")
    assert json.loads((tmp_path / "new" / CONFIG_NAME).read_text())["format_version"] == 2
    assert (tmp_path / "new" / TENSORS_NAME).read_bytes() == (tmp_path / "old" / TENSORS_NAME).read_bytes()
    for found in (loaded, Codebook.from_pretrained(tmp_path / "new")):
        for name in ("config", "identity", "provenance", "metrics", "weights_fingerprint"):
            assert getattr(found, name) == getattr(codebook, name), name
        assert found.errors == ([LayerError(1, 0.1, 0.2)])
        for index, layer in codebook.layers.items():
            assert torch.equal(found.layers[index].key_centroids, layer.key_centroids)


def test_in_place(saved):
    tensors = (saved / TENSORS_NAME).read_bytes()
    Codebook.from_pretrained(saved).save_pretrained(saved)
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", TENSORS_NAME, CONFIG_NAME]
    assert (saved / TENSORS_NAME).read_bytes() == tensors
    assert Codebook.from_pretrained(saved).config == CalibrationConfig(key_bits=4)


def test_options_that_lay_in_the_provenance(saved):
    moved = {"refine_steps": 3, "recall": 0.5, "separators": 0.25, "allocated_bits": 3}
    edit_config(saved, lambda d: d["provenance"].update(moved))
    loaded = Codebook.from_pretrained(saved)
    assert loaded.config == CalibrationConfig(
        refine_steps=3, retrieval_fraction=0.5, separator_fraction=0.25, allocate=3
    )
    assert loaded.provenance == make().provenance
    edit_config(saved, lambda d: d["provenance"].update(sequence_length=100))  # the text was shorter than asked for
    assert Codebook.from_pretrained(saved).provenance["sequence_length"] == 100


def test_options_that_do_not_match_the_tensors_are_read_but_not_saved(saved):
    """Version 0.1 did not compare them."""
    edit_config(saved, lambda d: d["vecinfer_config"].update(key_bits=1))
    loaded = Codebook.from_pretrained(saved)
    with pytest.raises(ValueError, match="asks for d8b8 and d4b8 in layer 0, which holds d4b8x2 and d4b8"):
        loaded.save_pretrained(saved)
    assert Codebook.from_pretrained(saved).config.key_bits == 1


def test_what_0_1_did_not_look_at(saved):
    """Fields that nobody read may be anything, and be missing."""

    def change(d):
        d.pop("library_name")
        for name in ("hidden_size", "vocab_size", "shape_hash", "num_attention_heads", "revision", "name"):
            d["model"].pop(name)
        d["note"] = [1]

    edit_config(saved, change)
    assert Codebook.from_pretrained(saved).identity.name == ""
    edit_config(saved, lambda d: [d.pop("provenance"), d.pop("metrics")])
    assert Codebook.from_pretrained(saved).provenance == {}


CONFIG_CHANGES = {
    "no layers": (lambda d: d.update(layers=[]), "layers is empty"),
    "layers of another kind": (lambda d: d.update(layers={"0": 1}), "layers is an object"),
    "a layer that is no object": (lambda d: d.update(layers=[3]), "layers[0] is 3"),
    "a layer twice": (lambda d: d["layers"].append(d["layers"][0]), "the layer 0 twice"),
    "a negative index": (lambda d: d["layers"][0].update(index=-1), "layers[0].index is -1"),
    "an index that is no number": (lambda d: d["layers"][0].update(index="zero"), "index is 'zero'"),
    "no heads": (lambda d: d["layers"][0].update(num_key_value_heads=0), "num_key_value_heads is 0"),
    "huge heads": (lambda d: d["layers"][0].update(num_key_value_heads=10**12), "num_key_value_heads is"),
    "huge head size": (lambda d: d["layers"][0].update(head_dim=2**40), "head_dim is"),
    "other heads than the model": (lambda d: d["layers"][0].update(head_dim=32), "contradict each other"),
    "other layers than the model": (lambda d: d["model"].update(quantized_layers=[0]), "contradict each other"),
    "fewer layers in the model": (lambda d: d["model"].update(num_hidden_layers=1), "contradict each other"),
    "other heads everywhere": (
        lambda d: [d["model"].update(head_dim=32), *(layer.update(head_dim=32) for layer in d["layers"])],
        "must be F32 [2, 32]",
    ),
    "unknown format": (lambda d: d["layers"][0].update(key_format="d3b8"), "subvector_dim is 3"),
    "format of another width": (lambda d: d["layers"][0].update(key_format="d8b12"), "promises key d8b12"),
    "no format": (lambda d: d["layers"][0].pop("value_format"), "has no 'value_format'"),
    "unknown transform": (lambda d: d["layers"][0].update(key_transform="pickle"), "promises key d4b8x2 (pickle"),
    "no key transform": (lambda d: d["layers"][0].update(key_transform=None), "(no transform"),
    "another transform": (lambda d: d["layers"][0].update(key_transform="matrix"), "promises key d4b8x2 (matrix"),
    "a mean that is not there": (lambda d: d["layers"][0].update(key_mean=True), "a mean"),
    "a missing layer": (lambda d: d["layers"].pop(), "contradict each other"),
    "no model": (lambda d: d.pop("model"), "has no 'model'"),
    "a model of another kind": (lambda d: d.update(model=[1]), "model is a list"),
    "a name of another kind": (lambda d: d["model"].update(name=5), "model.name is 5"),
    "no options": (lambda d: d.pop("vecinfer_config"), "has no 'vecinfer_config'"),
    "unknown option": (lambda d: d["vecinfer_config"].update(speed=9), "['speed']"),
    "bad option": (lambda d: d["vecinfer_config"].update(residual_length=-5), "residual_length is -5"),
    "unknown bits": (lambda d: d["vecinfer_config"].update(key_bits=3), "key_bits: 3"),
    "a list as provenance": (lambda d: d.update(provenance=["x"]), "provenance is a list"),
    "a string as metrics": (lambda d: d.update(metrics="x"), "metrics is 'x'"),
    "a moved option that is none": (lambda d: d["provenance"].update(recall="x"), "retrieval_fraction is 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIG_CHANGES)
def test_a_config_that_lies(saved, case):
    change, words = CONFIG_CHANGES[case]
    edit_config(saved, change)
    refused(saved, words)


@pytest.mark.parametrize("name", ["key.gain", "value.table"])
def test_reserved_names_need_a_newer_version(saved, name):
    edit_tensors(saved, lambda tensors: tensors.update({f"layers.0.{name}": torch.zeros(1)}))
    refused(saved, name, "newer version")


@pytest.mark.parametrize("value", [float("nan"), 3e38, 1e-45])
def test_numbers_are_checked(saved, value):
    edit_tensors(saved, lambda tensors: tensors["layers.0.key.centroid_scale"].fill_(value))
    refused(saved, "layers.0.key")
    assert not load_file(saved / TENSORS_NAME)["layers.0.key.centroid_scale"].isfinite().all() or abs(value) < 4e38
