# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""bounds.py: absurd numbers are refused, and whatever keeps the bounds makes neither NaN nor infinity."""

import pytest
import torch
from codebook_edits import edit_tensors, refused
from tiny_codebooks import random_codebook, random_layer
from tiny_models import tiny_config

from vecinfer_hf import Codebook, CodebookError
from vecinfer_hf.codebook.bounds import LARGEST_STATE
from vecinfer_hf.codebook.shipped import shipped_names
from vecinfer_hf.codebook.tensors import _layer, layer_tensors
from vecinfer_hf.model_info import HeadShape
from vecinfer_hf.quantization.quantizer import dequantize, quantize
from vecinfer_hf.quantization.transforms import apply_transform, invert_transform, key_inverse


KINDS = {"smooth_scale": "layers.0.{}.smooth_scale", "matrix": "layers.0.{}.matrix"}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def saved(tmp_path, kind):
    codebook = random_codebook(tiny_config("llama"), kind=kind, value_kind=kind, mean=True)
    codebook.save_pretrained(tmp_path / "codebook")
    return tmp_path / "codebook"


def set_first(key, value):
    def change(tensors):
        tensors[key] = tensors[key].float() if tensors[key].is_floating_point() else tensors[key]
        tensors[key].view(-1)[0] = value

    return change


def scaled(key, factor):
    def change(tensors):
        tensors[key] = tensors[key].float() * factor

    return change


@pytest.mark.parametrize("side", ["key", "value"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["centroid_scale", "mean", "transform"])
def test_nan_and_inf(saved, kind, side, part, value):
    key = KINDS[kind].format(side) if part == "transform" else f"layers.0.{side}.{part}"
    edit_tensors(saved, set_first(key, value))
    refused(saved, key, "NaN or Inf")


@pytest.mark.parametrize("side", ["key", "value"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_scales_must_be_positive(saved, kind, side, value):
    key = f"layers.0.{side}.centroid_scale"
    edit_tensors(saved, set_first(key, value))
    refused(saved, key, "positive")
    if kind == "smooth_scale":
        edit_tensors(saved, set_first(key, 0.1))
        edit_tensors(saved, set_first(KINDS[kind].format(side), value))
        refused(saved, KINDS[kind].format(side), "positive")


ABSURD = {
    "codes beyond float16": ("centroid_scale", 1e4, "a vector of codes"),
    "codes at the end of float32": ("centroid_scale", 3e38, "a vector of codes"),
    "a scale that divides to infinity": ("centroid_scale", 1e-45, "over centroid_scale"),
    "a scale that divides to more than float32 squares": ("centroid_scale", 1e-20, "over centroid_scale"),
    "a mean beyond float16": ("mean", 7e4, "a vector of codes"),
    "a mean at the end of float32": ("mean", -3e38, "a vector of codes"),
}


@pytest.mark.parametrize("side", ["key", "value"])
@pytest.mark.parametrize("case", ABSURD)
def test_finite_but_absurd_numbers(saved, side, case):
    part, value, words = ABSURD[case]
    edit_tensors(saved, set_first(f"layers.0.{side}.{part}", value))
    refused(saved, f"layers.0.{side}", words)


@pytest.mark.parametrize("side", ["key", "value"])
@pytest.mark.parametrize("factor", [1e30, 1e-30, 1e-42])
def test_transforms_of_absurd_size(saved, kind, side, factor):
    edit_tensors(saved, scaled(KINDS[kind].format(side), factor))
    refused(saved, f"layers.0.{side}")


@pytest.mark.parametrize("side", ["key", "value"])
def test_a_singular_and_an_almost_singular_matrix(tmp_path, side):
    random_codebook(tiny_config("llama"), kind="matrix", value_kind="matrix").save_pretrained(tmp_path)
    key = f"layers.0.{side}.matrix"
    edit_tensors(tmp_path, lambda tensors: tensors[key].zero_())
    refused(tmp_path, key, "no inverse")
    almost = torch.eye(16).repeat(2, 1, 1)
    almost[0, 3] = almost[0, 2]
    almost[0, 3, 3] += 1e-7
    few = torch.full((2,), 1e-6)
    edit_tensors(tmp_path, lambda tensors: tensors.update({key: almost, f"layers.0.{side}.centroid_scale": few}))
    refused(tmp_path, f"layers.0.{side}", "condition number")


def test_one_channel_far_from_the_others(tmp_path):
    """A recipe keeps scales within 1 : 10,000 of their head's largest; that loads. A billionth does not."""
    random_codebook(tiny_config("llama")).save_pretrained(tmp_path)
    key = "layers.0.key.smooth_scale"
    edit_tensors(tmp_path, lambda tensors: tensors[key].view(-1)[:15].fill_(1e-4))
    Codebook.from_pretrained(tmp_path)
    edit_tensors(tmp_path, set_first(key, 1e-9))
    refused(tmp_path, "layers.0.key", "condition number")


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_codebooks_are_far_inside(name):
    """All numbers may be 64 times as large; the docstring of bounds.py says how far inside they are."""
    codebook = Codebook.from_pretrained(name)
    for index, layer in codebook.layers.items():
        for field in ("key_centroid_scale", "value_centroid_scale"):
            layer = layer._replace(**{field: getattr(layer, field) * 64})
        stored = {key.split(".", 2)[2]: tensor for key, tensor in layer_tensors(index, layer).items()}
        _layer(stored, codebook.head_shape(index), "")


def dead_head(layer, side):
    """The layer after calibration of a head whose keys or values are all 0."""
    centroids, scale = (getattr(layer, f"{side}_{name}").clone() for name in ("centroids", "centroid_scale"))
    centroids[0], scale[0] = 0, 1.0
    return layer._replace(**{f"{side}_centroids": centroids, f"{side}_centroid_scale": scale})


@pytest.mark.parametrize("side", ["key", "value"])
def test_a_head_without_anything_to_code_loads(tmp_path, side):
    codebook = random_codebook(tiny_config("llama"))
    codebook.layers[0] = dead_head(codebook.layers[0], side)
    codebook.save_pretrained(tmp_path)
    assert torch.equal(
        getattr(Codebook.from_pretrained(tmp_path).layers[0], f"{side}_centroids")[0].float().abs().max(),
        torch.tensor(0.0),
    )


def random_numbers(kind, generator):
    """A layer whose numbers are 10**-20 to 10**20 times those of a calibration, some out of bounds."""
    seed = int(torch.randint(1 << 30, (1,), generator=generator))
    layer = random_layer(2, 16, seed=seed, kind=kind, value_kind=kind, mean=True)
    changed = {}
    for side, inverse in (("key", "query_transform"), ("value", "output_transform")):
        size, codes, mean = (torch.rand(3, generator=generator) * 40 - 20).tolist()
        # Codes that stand for states of any size from 10**-20 to 10**10.
        codes = size - 20 + (codes + 20) * 0.75
        for name, factor in (
            (f"{side}_transform", 10.0**size),
            (inverse, 10.0**-size),
            (f"{side}_centroid_scale", 10.0**codes),
            (f"{side}_mean", 10.0 ** (mean / 4)),
        ):
            changed[name] = getattr(layer, name) * factor
    return layer._replace(**changed)


def test_what_keeps_the_bounds_stays_finite(kind):
    """Every product of the specification, in float32, on the largest and the smallest states of float16."""
    generator = torch.Generator().manual_seed(1)
    states = torch.tensor([LARGEST_STATE, -LARGEST_STATE, 2.0**-24, 0.0, 1.0])
    kept = 0
    for _ in range(400):
        stored = layer_tensors(0, random_numbers(kind, generator))
        try:
            layer = _layer({name.split(".", 2)[2]: each for name, each in stored.items()}, HeadShape(2, 16, 16), "")
        except CodebookError:
            continue
        kept += 1
        vectors = states[torch.randint(len(states), (1, 2, 32, 16), generator=generator)]
        vectors[:, :, 0] = LARGEST_STATE
        keys = (layer.key_transform, layer.key_mean, layer.key_centroids, layer.key_centroid_scale)
        values = (layer.value_transform, layer.value_mean, layer.value_centroids, layer.value_centroid_scale)
        queries = apply_transform(vectors, layer.query_transform, None)
        for (transform, mean, centroids, scale), inverse in (
            (keys, key_inverse(layer.query_transform)),
            (values, layer.output_transform),
        ):
            turned = apply_transform(vectors, transform, mean)
            coded = dequantize(quantize(turned, centroids, scale), centroids, scale)
            back = invert_transform(coded, inverse, mean)
            for found in (turned, turned / scale.view(1, -1, 1, 1), 1 / scale, coded, back.half()):
                assert found.isfinite().all()
            if transform is layer.key_transform:
                assert (queries @ coded.transpose(-1, -2)).isfinite().all()
        assert (queries * layer.key_centroid_scale.view(1, -1, 1, 1)).isfinite().all()
        assert (vectors @ layer.key_mean.unsqueeze(-1)).isfinite().all()
    assert 20 < kept < 380, f"{kept} of 400: the draw does not cover both sides of the bounds"
