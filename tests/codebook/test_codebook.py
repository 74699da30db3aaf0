# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""codebook.py and codebook_files.py: saved and loaded to the bit, and no malformed file gets through."""

import copy
import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf import Codebook, CodebookError, VecInferConfig
from vecinfer_hf.codebook.files import CONFIG_NAME, FORMAT_VERSION, TENSORS_NAME


def make(key_bits=2, value_bits=2, family="llama", **kwargs):
    return random_codebook(tiny_config(family), key_bits, value_bits, **kwargs)


def same(first, second):
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
    # What is stored decides; the derived inverses are recomputed from it, so one round trip is a fixed point.
    codebook.save_pretrained(tmp_path / "first")
    once = Codebook.from_pretrained(tmp_path / "first")
    stored = load_file(tmp_path / "first" / TENSORS_NAME)
    once.save_pretrained(tmp_path / "second")
    again = load_file(tmp_path / "second" / TENSORS_NAME)
    assert stored.keys() == again.keys()
    assert all(torch.equal(stored[key], again[key]) for key in stored)
    twice = Codebook.from_pretrained(tmp_path / "second")
    same(once, twice)
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
    assert once.config == codebook.config
    assert once.identity == codebook.identity
    assert once.provenance == codebook.provenance
    assert once.metrics == codebook.metrics
    assert [once.formats(index) for index in once.layers] == [codebook.formats(index) for index in codebook.layers]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == [
        "README.md", TENSORS_NAME, CONFIG_NAME,
    ]  # fmt: skip


def test_saving_twice_gives_the_same_bytes(tmp_path):
    codebook = make()
    for name in ("a", "b"):
        codebook.save_pretrained(tmp_path / name)
    for file in (TENSORS_NAME, CONFIG_NAME):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_layers_of_different_formats(tmp_path):
    codebook = make(4, 2)
    codebook.layers[1] = make(1.5, 1).layers[1]
    codebook.save_pretrained(tmp_path)
    loaded = Codebook.from_pretrained(tmp_path)
    assert [[fmt.name for fmt in loaded.formats(index)] for index in (0, 1)] == [["d4b8x2", "d4b8"], ["d8b12", "d8b8"]]
    assert loaded.bits_per_element == codebook.bits_per_element == (4 + 2 + 1.5 + 1) / 4
    same(loaded, Codebook.from_pretrained(str(tmp_path)))


def test_only_layers_with_full_attention(tmp_path):
    codebook = make(family="gemma3")
    assert list(codebook.layers) == [1]
    codebook.save_pretrained(tmp_path)
    assert list(Codebook.from_pretrained(tmp_path).layers) == [1]


def test_size_and_device():
    codebook = make()
    assert codebook.nbytes == sum(
        tensor.nbytes for layer in codebook.layers.values() for tensor in layer if tensor is not None
    )
    assert codebook.layer(0, torch.device("cpu")) is codebook.layer(0, "cpu")
    assert codebook.head_shape(0) == (2, 16)
    assert copy.deepcopy(codebook) is codebook


def test_check_model():
    codebook = make()
    codebook.check_model(tiny_config("llama"))
    with pytest.raises(CodebookError, match=r"num_key_value_heads 2.*has 4.*vecinfer calibrate"):
        codebook.check_model(tiny_config("llama_mha"))


@pytest.fixture
def saved(tmp_path):
    make().save_pretrained(tmp_path / "codebook")
    return tmp_path / "codebook"


def edit_config(directory, change):
    path = directory / CONFIG_NAME
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def edit_tensors(directory, change):
    path = directory / TENSORS_NAME
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refused(directory, *words):
    """Loading fails with CodebookError that has all words and a remedy, and changes no file."""
    before = {path.name: path.read_bytes() for path in directory.iterdir()} if directory.is_dir() else None
    with pytest.raises(CodebookError) as raised:
        Codebook.from_pretrained(directory)
    message = str(raised.value)
    for word in (*words, str(directory)):
        assert word in message, message
    remedies = (
        "calibrate",
        "download",
        "upgrade",
        "does not match",
        "do not belong",
        "needs",
        "a codebook is a directory",
    )
    assert any(word in message.lower() for word in remedies), message
    if before is not None:
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_tensor_file(saved, part):
    content = (saved / TENSORS_NAME).read_bytes()
    (saved / TENSORS_NAME).write_bytes(content[: int(len(content) * part)])
    refused(saved, TENSORS_NAME)


@pytest.mark.parametrize(
    "content",
    [b"not safetensors at all", b"PK\x03\x04" + bytes(100), b"\x80\x04\x95" + bytes(50),
     struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 2) + b"[]", b"\xff" * 4096],
    ids=["text", "zip", "pickle", "huge header", "no tensors", "list", "ones"],
)  # fmt: skip
def test_a_file_of_another_kind(saved, content):
    (saved / TENSORS_NAME).write_bytes(content)
    refused(saved, TENSORS_NAME)


def test_data_behind_the_end(saved):
    with open(saved / TENSORS_NAME, "ab") as file:
        file.write(bytes(1000))
    refused(saved, TENSORS_NAME)


@pytest.mark.parametrize("name", [TENSORS_NAME, CONFIG_NAME])
def test_a_missing_file(saved, name):
    (saved / name).unlink()
    refused(saved, name)


def test_an_empty_directory_and_a_file_instead_of_one(tmp_path):
    refused(tmp_path, CONFIG_NAME, "vecinfer calibrate")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "is a file")


KEY = "layers.0.key.centroids"
SCALE = "layers.0.key.smooth_scale"
FLOATS = [SCALE, "layers.1.key.centroid_scale", "layers.0.value.centroid_scale"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", FLOATS)
def test_nan_and_inf(saved, key, value):
    edit_tensors(saved, lambda tensors: tensors[key].view(-1)[0:1].fill_(value))
    refused(saved, key, "NaN or Inf")


@pytest.mark.parametrize("value", [0.0, -1.0])
@pytest.mark.parametrize("key", FLOATS)
def test_scales_must_be_positive(saved, key, value):
    edit_tensors(saved, lambda tensors: tensors[key].view(-1)[0:1].fill_(value))
    refused(saved, "positive")


@pytest.mark.parametrize(
    ("key", "change"),
    [
        (KEY, lambda tensor: tensor.float()),
        (KEY, lambda tensor: tensor.to(torch.uint8)),
        (KEY, lambda tensor: tensor.flatten(0, 1)),
        (KEY, lambda tensor: tensor[:, :, :128].contiguous()),
        (KEY, lambda tensor: tensor[:1].contiguous()),
        (KEY, lambda tensor: tensor.transpose(2, 3).contiguous()),
        (SCALE, lambda tensor: tensor.double()),
        (SCALE, lambda tensor: tensor.half()),
        (SCALE, lambda tensor: tensor[:, :8].contiguous()),
        (SCALE, lambda tensor: tensor[:0].contiguous()),
    ],
)
def test_wrong_dtypes_and_shapes(saved, key, change):
    def replace(tensors):
        tensors[key] = change(tensors[key])

    edit_tensors(saved, replace)
    refused(saved, key, "promises")


@pytest.mark.parametrize("key", [KEY, SCALE, "layers.1.value.centroid_scale"])
def test_missing_and_surplus_tensors(saved, key):
    edit_tensors(saved, lambda tensors: tensors.pop(key))
    refused(saved, key, "lacks")
    edit_tensors(saved, lambda tensors: tensors.update({"layers.7.key.centroids": torch.zeros(1)}) or None)
    with pytest.raises(CodebookError, match=r"lacks|unexpected"):
        Codebook.from_pretrained(saved)


def test_surplus_tensors_alone(saved):
    edit_tensors(saved, lambda tensors: tensors.update(extra=torch.zeros(1)))
    refused(saved, "extra", "unexpected")


def test_a_singular_matrix(tmp_path):
    make(kind="matrix").save_pretrained(tmp_path)
    edit_tensors(tmp_path, lambda tensors: tensors["layers.0.key.matrix"].zero_())
    refused(tmp_path, "layers.0.key.matrix", "no inverse")


def test_an_almost_singular_matrix_whose_inverse_overflows(tmp_path):
    make(kind="matrix").save_pretrained(tmp_path)
    edit_tensors(tmp_path, lambda tensors: tensors["layers.0.key.matrix"].mul_(1e-42))
    refused(tmp_path, "layers.0.key.matrix")


def test_a_smooth_scale_whose_reciprocal_overflows(saved):
    edit_tensors(saved, lambda tensors: tensors[SCALE].view(-1)[0:1].fill_(1e-42))
    refused(saved, SCALE)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "{}", "\x00", '{"format_version": "1"}'])
def test_a_config_that_is_none(saved, text):
    (saved / CONFIG_NAME).write_text(text)
    refused(saved, CONFIG_NAME)


def test_a_config_that_is_no_text(saved):
    (saved / CONFIG_NAME).write_bytes(b"\xff\xfe\x00{")
    refused(saved, CONFIG_NAME)


def test_a_newer_format_says_upgrade(saved):
    edit_config(saved, lambda description: description.update(format_version=FORMAT_VERSION + 1))
    refused(saved, f"version {FORMAT_VERSION + 1}", "pip install -U vecinfer-hf")


@pytest.mark.parametrize("version", [0, -1, None, 1.5, "1", True])
def test_a_format_version_that_never_was(saved, version):
    edit_config(saved, lambda description: description.update(format_version=version))
    refused(saved, CONFIG_NAME)


CONFIG_CHANGES = {
    "no layers": lambda d: d.update(layers=[]),
    "layers of another kind": lambda d: d.update(layers={"0": 1}),
    "a layer that is no object": lambda d: d.update(layers=[3]),
    "a layer twice": lambda d: d["layers"].append(d["layers"][0]),
    "a negative index": lambda d: d["layers"][0].update(index=-1),
    "an index that is no number": lambda d: d["layers"][0].update(index="zero"),
    "an index with a fraction": lambda d: d["layers"][0].update(index=0.5),
    "no heads": lambda d: d["layers"][0].update(num_key_value_heads=0),
    "huge heads": lambda d: d["layers"][0].update(num_key_value_heads=10**12),
    "huge head size": lambda d: d["layers"][0].update(head_dim=2**40),
    "odd head size": lambda d: d["layers"][0].update(head_dim=18),
    "unknown format": lambda d: d["layers"][0].update(key_format="d3b8"),
    "format of another width": lambda d: d["layers"][0].update(key_format="d8b12"),
    "no format": lambda d: d["layers"][0].pop("value_format"),
    "unknown transform": lambda d: d["layers"][0].update(key_transform="pickle"),
    "no key transform": lambda d: d["layers"][0].update(key_transform=None),
    "a transform of another rank": lambda d: d["layers"][0].update(key_transform="matrix"),
    "a mean that is not there": lambda d: d["layers"][0].update(key_mean=True),
    "a missing layer": lambda d: d["layers"].pop(),
    "no model": lambda d: d.pop("model"),
    "a model of another kind": lambda d: d.update(model=[1]),
    "no options": lambda d: d.pop("vecinfer_config"),
    "unknown option": lambda d: d["vecinfer_config"].update(speed=9),
    "bad option": lambda d: d["vecinfer_config"].update(residual_length=-5),
    "unknown bits": lambda d: d["vecinfer_config"].update(key_bits=3),
}


@pytest.mark.parametrize("case", CONFIG_CHANGES)
def test_a_config_that_lies(saved, case):
    edit_config(saved, CONFIG_CHANGES[case])
    refused(saved)


def test_a_file_that_promises_much_allocates_nothing(saved):
    """A header of a petabyte is refused by its size, before any tensor is made."""
    header = json.dumps({KEY: {"dtype": "I8", "shape": [2**50], "data_offsets": [0, 2**50]}}).encode()
    (saved / TENSORS_NAME).write_bytes(struct.pack("<Q", len(header)) + header)
    refused(saved, TENSORS_NAME)


def test_a_failing_save_leaves_what_was_there(saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    codebook = make(4, 4)
    codebook.provenance = {"not json": object()}
    with pytest.raises(TypeError):
        codebook.save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_saving_to_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CodebookError, match="it is a file; give a directory"):
        make().save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_saving_over_an_older_codebook_replaces_it(saved):
    make(4, 4).save_pretrained(saved)
    assert Codebook.from_pretrained(saved).bits_per_element == 4


def test_a_missing_directory_says_where_it_looked(tmp_path):
    with pytest.raises((CodebookError, OSError), match="nowhere"):
        Codebook.from_pretrained(tmp_path / "nowhere")


def test_subfolder_of_a_local_directory(tmp_path):
    make().save_pretrained(tmp_path / "root" / "2bit")
    assert Codebook.from_pretrained(tmp_path / "root", subfolder="2bit").bits_per_element == 2
    with pytest.raises(CodebookError, match=CONFIG_NAME):
        Codebook.from_pretrained(tmp_path / "root")


def test_shared_tensors_can_be_saved(tmp_path):
    codebook = make()
    layer = codebook.layers[0]
    codebook.layers[0] = layer._replace(
        value_centroids=layer.key_centroids, value_centroid_scale=layer.key_centroid_scale
    )
    codebook.save_pretrained(tmp_path)
    loaded = Codebook.from_pretrained(tmp_path).layers[0]
    assert torch.equal(loaded.value_centroids, layer.key_centroids)


def test_repr_names_model_bits_and_layers():
    codebook = Codebook(VecInferConfig(), {"name": "m"}, make().layers)
    assert repr(codebook) == "Codebook(m, 2 bits, 2 layers)"
