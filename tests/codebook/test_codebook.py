# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""codebook.py: the object, saved and loaded to the bit, its place and its memory."""

import copy
import json
from dataclasses import replace
from pathlib import PurePath

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny_codebooks import layer_of_shape, random_codebook
from tiny_models import tiny_config

from vecinfer_hf import CalibrationConfig, Codebook, CodebookError, ConfigError
from vecinfer_hf.codebook.codebook import LayerError
from vecinfer_hf.codebook.files import CONFIG_NAME, TENSORS_NAME
from vecinfer_hf.codebook.shipped import shipped_codebooks, shipped_names
from vecinfer_hf.codebook.sizes import bytes_per_token, layer_nbytes
from vecinfer_hf.codebook.tensors import LayerForm, SideForm
from vecinfer_hf.model_info import HeadShape
from vecinfer_hf.quantization.formats import parse_format
from vecinfer_hf.quantization.packing import TILE, pack


def make(key_bits=2, value_bits=2, family="llama", **kwargs):
    return random_codebook(tiny_config(family), key_bits, value_bits, **kwargs)


def mixed_codebook():
    """A codebook whose layers differ in heads and whose values are narrower than keys."""
    config = transformers.MiMoV2FlashConfig(
        num_hidden_layers=3, layer_types=["full_attention"] * 3, head_dim=24, v_head_dim=16, num_key_value_heads=4
    )
    codebook = random_codebook(config, kind="matrix", value_kind="matrix", mean=True)
    identity = replace(codebook.identity, layers={**codebook.identity.layers, 1: HeadShape(2, 8, 32)})
    layers = {**codebook.layers, 1: layer_of_shape(HeadShape(2, 8, 32), mean=True, value_kind="smooth_scale")}
    return Codebook(codebook.config, replace(identity, keys_from_values=frozenset({2})), layers)


def same(first, second):
    assert first.layers.keys() == second.layers.keys()
    for index in first.layers:
        for field, ours, theirs in zip(
            first.layers[index]._fields, first.layers[index], second.layers[index], strict=True
        ):
            assert (ours is None) == (theirs is None), field
            if ours is not None:
                assert ours.dtype == theirs.dtype
                assert torch.equal(ours, theirs), field


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("value_kind", [None, "smooth_scale", "matrix"])
@pytest.mark.parametrize("kind", ["smooth_scale", "matrix"])
@pytest.mark.parametrize("bits", [4, 2, 1.5, 1.25, 1, "d2b8"])
def test_what_is_loaded_is_what_was_saved(bits, kind, value_kind, mean, tmp_path):
    codebook = make(bits, 2, kind=kind, value_kind=value_kind, mean=mean)
    codebook.provenance, codebook.metrics = {"tokens": 3, "note": "é"}, {"quality": [{"ratio": 1.01}]}
    codebook.weights_fingerprint = "abc"
    # What is stored decides; the derived inverses are recomputed from it, so one round trip is a fixed point.
    codebook.save_pretrained(tmp_path / "first")
    once = Codebook.from_pretrained(tmp_path / "first")
    stored = load_file(tmp_path / "first" / TENSORS_NAME)
    once.save_pretrained(tmp_path / "second")
    for file in (CONFIG_NAME, TENSORS_NAME):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    same(once, Codebook.from_pretrained(tmp_path / "second"))
    for index, layer in codebook.layers.items():
        loaded = once.layers[index]
        for field in ("key_mean", "key_centroids", "key_centroid_scale", "value_mean", "value_centroids"):
            ours, theirs = getattr(layer, field), getattr(loaded, field)
            assert (ours is None and theirs is None) or torch.equal(ours, theirs)
        primary = layer.query_transform if kind == "smooth_scale" else layer.key_transform
        assert torch.equal(primary, loaded.query_transform if kind == "smooth_scale" else loaded.key_transform)
        # 1 / (1 / x) is x to 1.5 eps; a float64 inverse rounded to float32 is itself to 1 eps of its largest entry.
        for field in ("key_transform", "query_transform", "value_transform", "output_transform"):
            ours, theirs = getattr(layer, field), getattr(loaded, field)
            if ours is not None:
                assert (ours - theirs).abs().max() <= 2 * torch.finfo(torch.float32).eps * ours.abs().max() * 3
    assert set(stored) == {f"layers.{index}.{part}" for index in codebook.layers for part in parts(layer)}
    for name in ("config", "identity", "provenance", "metrics", "weights_fingerprint"):
        assert getattr(once, name) == getattr(codebook, name)
    assert [once.formats(index) for index in once.layers] == [codebook.formats(index) for index in codebook.layers]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == [
        "README.md", TENSORS_NAME, CONFIG_NAME,
    ]  # fmt: skip


def parts(layer):
    for side in ("key", "value"):
        yield from (f"{side}.centroids", f"{side}.centroid_scale")
        transform, mean = getattr(layer, f"{side}_transform"), getattr(layer, f"{side}_mean")
        if transform is not None:
            yield f"{side}.matrix" if transform.dim() == 3 else f"{side}.smooth_scale"
        if mean is not None:
            yield f"{side}.mean"


def test_config_json_is_format_2(tmp_path):
    codebook = make()
    codebook.save_pretrained(tmp_path)
    found = json.loads((tmp_path / CONFIG_NAME).read_text())
    assert list(found) == ["format_version", "model", "calibration_config", "weights_fingerprint", "tensors",
                           "provenance", "metrics"]  # fmt: skip
    assert found["format_version"] == 2
    assert found["calibration_config"] == CalibrationConfig().to_dict()
    assert found["model"] == codebook.identity.to_dict()
    assert found["weights_fingerprint"] is None
    assert set(found["tensors"]) == {"sha256"}


def test_layers_of_different_formats(tmp_path):
    codebook = random_codebook(tiny_config("llama"), layer_bits=[[4, 2], [1.5, 1]])
    codebook.save_pretrained(tmp_path)
    loaded = Codebook.from_pretrained(tmp_path)
    assert [[fmt.name for fmt in loaded.formats(index)] for index in (0, 1)] == [["d4b8x2", "d4b8"], ["d8b12", "d8b8"]]
    assert loaded.bits_per_element == codebook.bits_per_element == (4 + 2 + 1.5 + 1) / 4
    assert (loaded.mean_bits.key_bits, loaded.mean_bits.value_bits) == (2.75, 1.5)


def test_heads_differ_by_layer_and_side(tmp_path):
    codebook = mixed_codebook()
    assert codebook.head_shape(0) == (4, 24, 16)
    assert codebook.head_shape(1)._asdict() == {"num_key_value_heads": 2, "key_head_dim": 8, "value_head_dim": 32}
    codebook.save_pretrained(tmp_path)
    loaded = Codebook.from_pretrained(tmp_path)
    loaded.save_pretrained(tmp_path / "again")
    assert loaded.identity == codebook.identity
    same(loaded, Codebook.from_pretrained(tmp_path / "again"))
    card = (tmp_path / "README.md").read_text()
    assert "4 key/value heads of 24 (keys) and 16 (2 layers); 2 key/value heads of 8 (keys) and 32 (1 layers)" in card


def test_only_layers_with_full_attention(tmp_path):
    codebook = make(family="gemma3")
    assert list(codebook.layers) == [1]
    codebook.save_pretrained(tmp_path)
    assert list(Codebook.from_pretrained(tmp_path).layers) == [1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda layers: layers.pop(1), r"layers \[0\], but.*\[0, 1\]"),
        (lambda layers: layers.update({1: layer_of_shape(HeadShape(4, 16, 16))}), r"key heads \[\(4, 16\)\].*has 2"),
        (lambda layers: layers.update({1: layer_of_shape(HeadShape(2, 8, 16))}), r"key heads \[\(2, 8\)\].*size 16"),
        (
            lambda layers: layers.update({1: layer_of_shape(HeadShape(2, 16, 8), value_kind="matrix")}),
            r"value heads \[\(2, 8\)\]",
        ),
    ],
)
def test_layers_that_are_not_the_model_s(change, words):
    codebook = make()
    layers = dict(codebook.layers)
    change(layers)
    with pytest.raises(CodebookError, match=words):
        Codebook(codebook.config, codebook.identity, layers)


# ---- bytes and bits


@pytest.mark.parametrize("kind", ["smooth_scale", "matrix"])
@pytest.mark.parametrize("value_kind", [None, "smooth_scale", "matrix"])
@pytest.mark.parametrize("bits", [4, 2, 1.5])
def test_bytes_of_a_codebook_are_those_of_its_tensors(bits, kind, value_kind):
    shape = HeadShape(3, 32, 16)
    for mean in (False, True):
        layer = layer_of_shape(shape, bits, 2, kind=kind, value_kind=value_kind, mean=mean)
        form = LayerForm(
            SideForm(parse_format(bits), kind, mean), SideForm(parse_format(2), value_kind, mean and bool(value_kind))
        )
        assert layer_nbytes(shape, form) == layer.nbytes
        assert layer.nbytes == sum(tensor.nbytes for tensor in layer if tensor is not None)


@pytest.mark.parametrize("pair", [(4, 2), (2, 2), (1, 1.5), ("d2b8", 1.25)])
def test_bytes_of_a_token_are_those_of_its_tile(pair):
    formats = tuple(parse_format(bits) for bits in pair)
    codes = [torch.zeros(1, 3, TILE, fmt.num_codes, fmt.num_subvectors(16), dtype=torch.int32) for fmt in formats]
    assert bytes_per_token(HeadShape(3, 16, 16), formats) == pack(*codes, *formats, 16).nbytes / TILE


def test_bytes_of_all_layers():
    codebook = mixed_codebook()
    assert codebook.nbytes == sum(layer.nbytes for layer in codebook.layers.values())
    each = [bytes_per_token(codebook.head_shape(index), codebook.formats(index)) for index in codebook.layers]
    assert codebook.bytes_per_token == sum(each)
    # Keys in planes of a multiple of 4 sub-vectors, values of 8: 24 / 4 -> 8, 16 / 4 -> 8; 8 / 4 -> 4, 32 / 4 -> 8.
    assert each == [4 * (8 + 8), 2 * (4 + 8), 4 * (8 + 8)]


# ---- memory


def test_tensors_on_a_device_are_contiguous():
    """Compiled operators read them so; a matrix made in memory may be stored by columns."""
    codebook = make()
    layer = codebook.layers[0]
    by_columns = torch.eye(layer.key_transform.shape[-1]).expand(len(layer.key_transform), -1, -1).mT
    codebook.layers[0] = layer._replace(key_transform=by_columns, query_transform=by_columns)
    assert not by_columns.is_contiguous()
    assert all(tensor.is_contiguous() for tensor in codebook.layer(0, "cpu") if tensor is not None)


def test_copies_on_devices_are_kept_until_they_are_freed():
    codebook = make()
    first = codebook.layer(0, torch.device("cpu"))
    assert codebook.layer(0, "cpu") is first
    meta = codebook.layer(0, "meta")
    assert codebook.layer(0, "meta") is meta
    codebook.free("meta")
    assert codebook.layer(0, "meta") is not meta
    assert codebook.layer(0, "cpu") is first
    codebook.free()
    assert codebook._on_device == {}
    assert torch.equal(first.key_centroids, codebook.layers[0].key_centroids)


def test_copies_of_a_cache_share_the_codebook():
    codebook = make()
    assert copy.deepcopy(codebook) is codebook


def test_repr_names_model_bits_and_layers():
    codebook = make()
    assert repr(codebook) == "Codebook(llama, 2 bits, 2 layers)"
    codebook.identity = replace(codebook.identity, name="org/m")
    assert repr(codebook) == "Codebook(org/m, 2 bits, 2 layers)"


def test_errors_are_those_of_its_layers_and_of_the_right_form():
    codebook = make()
    assert codebook.errors == []
    good = {"layer": 1, "key": 0.125, "value": 1}
    others = [5, {}, None, [1], {"layer": 0, "key": "x", "value": 1}, {"layer": True, "key": 0, "value": 0},
              {"layer": 0, "key": 10**400, "value": 0}, {"layer": 9, "key": 0, "value": 0},
              {"layer": [], "key": 0, "value": 0}, {"layer": 0, "key": -1, "value": 0}]  # fmt: skip
    codebook.provenance = {"errors": [*others, good]}
    assert codebook.errors == [LayerError(1, 0.125, 1.0)]
    for other in ("x", {"layer": 1}, None, 3):
        codebook.provenance = {"errors": other}
        assert codebook.errors == []


# ---- models


def test_check_model():
    codebook = make()
    codebook.check_model(tiny_config("llama"))
    with pytest.raises(CodebookError, match=r"num_key_value_heads 2.*has 4.*vecinfer calibrate"):
        codebook.check_model(tiny_config("llama_mha"))


def test_another_model_of_the_same_shape_is_warned_about(caplog, monkeypatch):
    codebook, config = make(), tiny_config("llama")
    codebook.identity = replace(codebook.identity, name="org/one")
    monkeypatch.setattr(transformers.logging.get_logger("transformers"), "propagate", True)
    config._name_or_path = "other/one"
    codebook.check_model(config)
    assert not caplog.records
    config._name_or_path = "org/two"
    codebook.check_model(config)
    assert "'org/one' and is used with 'org/two'" in caplog.text


# ---- places


def test_a_subfolder_of_a_local_directory(tmp_path):
    make().save_pretrained(tmp_path / "root" / "2bit")
    loaded = Codebook.from_pretrained(tmp_path / "root", subfolder="2bit")
    assert loaded.source == {"codebook": str(tmp_path / "root"), "subfolder": "2bit"}
    assert Codebook.from_pretrained(tmp_path / "root", subfolder=PurePath("2bit")).source == loaded.source
    with pytest.raises(CodebookError, match=CONFIG_NAME):
        Codebook.from_pretrained(tmp_path / "root")


def test_a_shipped_one_by_its_name():
    name = shipped_names()[0]
    model, _, bits = name.partition("/")
    for given in ({"name": name}, {"name": model, "subfolder": bits}, {"name": f"{name}/"}):
        found = Codebook.from_pretrained(**given)
        assert found.source == {"codebook": given["name"], **{k: v for k, v in given.items() if k == "subfolder"}}
        assert "revision" not in found.source


@pytest.mark.parametrize("name", ["../secret", "a/../../b", "a/../a/b"])
def test_a_name_with_dots_is_not_a_shipped_one(name, tmp_path, monkeypatch):
    from vecinfer_hf.codebook import locate, shipped

    make().save_pretrained(tmp_path / "secret")
    make().save_pretrained(tmp_path / "b")
    make().save_pretrained(tmp_path / "shipped" / "a" / "b")
    for module in (locate, shipped):
        monkeypatch.setattr(module, "shipped_codebooks", lambda: tmp_path / "shipped")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    if name.startswith(".."):
        assert Codebook.from_pretrained(name)  # relative to where the user is
        monkeypatch.chdir(tmp_path / "shipped" / "a")
    with pytest.raises(CodebookError, match="cannot be a Hub repository either"):
        Codebook.from_pretrained(name)


def test_a_revision_of_what_is_here_is_refused(tmp_path):
    make().save_pretrained(tmp_path)
    for name in (tmp_path, shipped_names()[0]):
        with pytest.raises(ConfigError, match="revision='v1'.*leave it out"):
            Codebook.from_pretrained(name, revision="v1")


def test_unknown_keywords_are_refused_by_name(tmp_path):
    make().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="revison"):
        Codebook.from_pretrained(tmp_path, revison="v1")
    with pytest.raises(TypeError, match="privat"):
        make().push_to_hub("org/name", privat=True)


@pytest.mark.parametrize("name", ["", None, 5, "~nobody-of-that-name/x/y", "x" * 5000 + "/a/b", "a\0b/c/d"], ids=repr)
def test_what_is_no_name(name):
    with pytest.raises(CodebookError):
        Codebook.from_pretrained(name)


def test_a_missing_directory_says_where_it_looked(tmp_path):
    with pytest.raises(CodebookError, match=f"nowhere.*{shipped_names()[0]}"):
        Codebook.from_pretrained(tmp_path / "nowhere")


def test_the_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make().save_pretrained("~/book")
    assert (tmp_path / "book" / CONFIG_NAME).is_file()
    same(Codebook.from_pretrained("~/book"), Codebook.from_pretrained(tmp_path / "book"))


def test_shipped_names_are_those_in_the_package():
    assert all((shipped_codebooks() / name / CONFIG_NAME).is_file() for name in shipped_names())
    assert len(shipped_names()) == 6


def test_shared_tensors_can_be_saved(tmp_path):
    codebook = make()
    layer = codebook.layers[0]
    codebook.layers[0] = layer._replace(
        value_centroids=layer.key_centroids, value_centroid_scale=layer.key_centroid_scale
    )
    codebook.save_pretrained(tmp_path)
    loaded = Codebook.from_pretrained(tmp_path).layers[0]
    assert torch.equal(loaded.value_centroids, layer.key_centroids)
