# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""files.py, description.py, tensors.py: no malformed file gets through, and each refusal names value, rule, remedy."""

import json
import os
import struct

import pytest
import torch
from codebook_edits import CONFIG_NAME, TENSORS_NAME, edit_config, edit_tensors, name_the_hash, refused
from safetensors.torch import load_file, save_file
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf import Codebook, CodebookError
from vecinfer_hf.codebook.description import DEEPEST, FORMAT_VERSION


def make(key_bits=2, value_bits=2, **kwargs):
    return random_codebook(tiny_config("llama"), key_bits, value_bits, **kwargs)


@pytest.fixture
def saved(tmp_path):
    make().save_pretrained(tmp_path / "codebook")
    return tmp_path / "codebook"


KEY = "layers.0.key.centroids"
SCALE = "layers.0.key.smooth_scale"


# ---- the hash


def test_a_flipped_bit_is_found_by_the_hash_before_any_tensor_is_read(saved, monkeypatch):
    content = bytearray((saved / TENSORS_NAME).read_bytes())
    content[-1] ^= 1
    (saved / TENSORS_NAME).write_bytes(content)
    assert len(load_file(saved / TENSORS_NAME)) > 4  # to safetensors the file is a good one
    monkeypatch.setattr("vecinfer_hf.codebook.tensors.safe_open", None)
    refused(saved, "SHA-256", "do not belong together")


def test_swapped_tensors_of_the_same_shape_are_found_by_the_hash(saved):
    def swap(tensors):
        one, other = "layers.0.key.centroids", "layers.1.key.centroids"
        tensors[one], tensors[other] = tensors[other], tensors[one]

    edit_tensors(saved, swap, forged=False)
    refused(saved, "SHA-256")


def test_the_tensors_of_another_codebook_are_found_by_the_hash(saved, tmp_path):
    make(seed=5).save_pretrained(tmp_path / "other")
    (saved / TENSORS_NAME).write_bytes((tmp_path / "other" / TENSORS_NAME).read_bytes())
    refused(saved, "SHA-256")


# ---- codebook.safetensors


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_tensor_file(saved, part, forged):
    content = (saved / TENSORS_NAME).read_bytes()
    (saved / TENSORS_NAME).write_bytes(content[: int(len(content) * part)])
    if forged:
        name_the_hash(saved)
    refused(saved, TENSORS_NAME)


@pytest.mark.parametrize(
    "content",
    [b"not safetensors at all", b"PK\x03\x04" + bytes(100), b"\x80\x04\x95" + bytes(50),
     struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 2) + b"[]", b"\xff" * 4096],
    ids=["text", "zip", "pickle", "huge header", "no tensors", "list", "ones"],
)  # fmt: skip
def test_a_file_of_another_kind(saved, content):
    (saved / TENSORS_NAME).write_bytes(content)
    name_the_hash(saved)
    refused(saved, TENSORS_NAME)


def test_data_behind_the_end(saved):
    with open(saved / TENSORS_NAME, "ab") as file:
        file.write(bytes(1000))
    name_the_hash(saved)
    refused(saved, TENSORS_NAME)


def test_a_file_that_promises_much_allocates_nothing(saved):
    """A header of a petabyte is refused by its size, before any tensor is made."""
    header = json.dumps({KEY: {"dtype": "I8", "shape": [2**50], "data_offsets": [0, 2**50]}}).encode()
    (saved / TENSORS_NAME).write_bytes(struct.pack("<Q", len(header)) + header)
    name_the_hash(saved)
    refused(saved, TENSORS_NAME)


@pytest.mark.parametrize("name", [TENSORS_NAME, CONFIG_NAME])
@pytest.mark.parametrize("instead", [None, "mkdir", "mkfifo"])
def test_a_missing_file_or_something_else_instead(saved, name, instead):
    (saved / name).unlink()
    if instead:
        getattr(os, instead)(saved / name)
    refused(saved, name, "is not a file" if instead else "does not exist")


def test_an_empty_directory_and_a_file_instead_of_one(tmp_path):
    refused(tmp_path, CONFIG_NAME, "vecinfer calibrate")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "is a file")


@pytest.mark.parametrize(
    ("key", "change"),
    [
        (KEY, lambda tensor: tensor.float()),
        (KEY, lambda tensor: tensor.to(torch.uint8)),
        (KEY, lambda tensor: tensor.flatten(0, 1)),
        (KEY, lambda tensor: tensor[:, :, :128].contiguous()),
        (KEY, lambda tensor: tensor[:, :, :255].contiguous()),
        (KEY, lambda tensor: tensor[:, :0].contiguous()),
        (KEY, lambda tensor: tensor[:1].contiguous()),
        (KEY, lambda tensor: tensor.transpose(2, 3).contiguous()),
        (KEY, lambda tensor: torch.zeros(2, 1, 256, 3, dtype=torch.int8)),
        (SCALE, lambda tensor: tensor.double()),
        (SCALE, lambda tensor: tensor.half()),
        (SCALE, lambda tensor: tensor[:, :8].contiguous()),
        (SCALE, lambda tensor: tensor[:0].contiguous()),
        ("layers.1.value.centroid_scale", lambda tensor: tensor.unsqueeze(1)),
    ],
)
def test_wrong_dtypes_and_shapes(saved, key, change):
    edit_tensors(saved, lambda tensors: tensors.update({key: change(tensors[key])}))
    refused(saved, key, "does not fit")


@pytest.mark.parametrize("key", [KEY, SCALE, "layers.1.value.centroid_scale"])
def test_missing_tensors(saved, key):
    edit_tensors(saved, lambda tensors: tensors.pop(key))
    refused(saved, key.rsplit(".", 1)[0], "lacks")


@pytest.mark.parametrize(
    "name",
    ["extra", "layers.7.key.centroids", "layers.0.query.centroids", "layers.00.key.mean", "layers.0.key.means",
     "layers.0.value.matrix.x", "layers.-1.key.mean", "x" * 3000],
)  # fmt: skip
def test_surplus_tensors(saved, name):
    edit_tensors(saved, lambda tensors: tensors.update({name: torch.zeros(1)}))
    refused(saved, name[:90], "unexpected")


def test_two_transforms(saved):
    edit_tensors(saved, lambda tensors: tensors.update({"layers.0.key.matrix": torch.eye(16).repeat(2, 1, 1)}))
    refused(saved, "both layers.0.key.matrix and layers.0.key.smooth_scale")


@pytest.mark.parametrize(
    "name", ["layers.0.key.gain", "layers.1.value.gain", "layers.0.key.table", "layers.1.value.table"]
)
def test_reserved_names_need_a_newer_version(saved, name):
    edit_tensors(saved, lambda tensors: tensors.update({name: torch.zeros(1)}))
    refused(saved, name, "needs a newer version", "pip install -U vecinfer-hf")


# ---- config.json


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", '"x"', "{}", "\x00", '{"format_version": "1"}', '{"format_version": 2',
     '{"format_version": 2, "metrics": {"x": NaN}}', '{"format_version": 2, "metrics": {"x": -Infinity}}',
     '{"format_version": 2, "metrics": {"x": 1e999}}', '{"format_version": ' + "1" * 5000 + "}",
     '{"format_version": 2, "metrics":' + "[" * 100_000 + "]" * 100_000 + "}",
     '{"format_version": 1, "metrics":' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}",
     '{"format_version": 2, "provenance": {"x": "\\ud800"}}'],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_a_config_that_is_none(saved, text):
    (saved / CONFIG_NAME).write_text(text)
    refused(saved, CONFIG_NAME)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00{", b'{"format_version": 2, "x": "\xe9"}', bytes(17 << 20)])
def test_a_config_that_is_no_text(saved, content):
    (saved / CONFIG_NAME).write_bytes(content)
    refused(saved, CONFIG_NAME)


def test_a_newer_format_says_upgrade(saved):
    for version in (FORMAT_VERSION + 1, 10**400):
        edit_config(saved, lambda description, version=version: description.update(format_version=version))
        refused(saved, f"above {FORMAT_VERSION}", "pip install -U vecinfer-hf")


@pytest.mark.parametrize("version", [0, -1, None, 1.5, "1", True, -(10**400)])
def test_a_format_version_that_never_was(saved, version):
    edit_config(saved, lambda description: description.update(format_version=version))
    refused(saved, CONFIG_NAME, "format")


def layer(change):
    return lambda d: d["model"]["layers"][0].update(change)


CONFIG_CHANGES = {
    "no layers": (lambda d: d["model"].update(layers=[]), "model.layers is empty"),
    "layers of another kind": (lambda d: d["model"].update(layers={"0": 1}), "model.layers is an object"),
    "a layer that is no object": (lambda d: d["model"].update(layers=[3]), "model.layers[0] is 3"),
    "a layer twice": (lambda d: d["model"]["layers"].append(d["model"]["layers"][0]), "the layer 0 twice"),
    "a negative index": (layer({"index": -1}), "model.layers[0].index is -1; it must be from 0 to 1"),
    "an index behind the last": (layer({"index": 2}), "model.layers[0].index is 2"),
    "an index that is no number": (layer({"index": "zero"}), "model.layers[0].index is 'zero'"),
    "an index with a fraction": (layer({"index": 0.0}), "model.layers[0].index is 0.0"),
    "an index that is true": (layer({"index": True}), "model.layers[0].index is True"),
    "no heads": (layer({"num_key_value_heads": 0}), "num_key_value_heads is 0; it must be from 1 to"),
    "huge heads": (layer({"num_key_value_heads": 10**30}), "num_key_value_heads is a huge integer"),
    "huge head size": (layer({"key_head_dim": 2**40}), "key_head_dim is 1099511627776"),
    "huge value size": (layer({"value_head_dim": 2**40}), "value_head_dim is 1099511627776"),
    "odd head size": (layer({"value_head_dim": 18}), "head_dim 18 is not divisible"),
    "other heads": (layer({"num_key_value_heads": 4}), "must be I8 [4, "),
    "another head size": (layer({"key_head_dim": 32}), "must be F32 [2, 32]"),
    "a missing head size": (lambda d: d["model"]["layers"][0].pop("value_head_dim"), "has no 'value_head_dim'"),
    "no word on keys": (lambda d: d["model"]["layers"][0].pop("keys_from_values"), "has no 'keys_from_values'"),
    "another word on keys": (layer({"keys_from_values": 1}), "keys_from_values is 1; it must be true or false"),
    "an unknown field of a layer": (layer({"speed": 1}), "model.layers[0] has the unknown field(s) 'speed'"),
    "a missing layer": (lambda d: d["model"]["layers"].pop(), "unexpected tensor 'layers.1"),
    "no model": (lambda d: d.pop("model"), "has no 'model'"),
    "a model of another kind": (lambda d: d.update(model=[1]), "model is a list; it must be an object"),
    "an unknown field of the model": (lambda d: d["model"].update(speed=1), "model has the unknown field(s) 'speed'"),
    "a name of another kind": (lambda d: d["model"].update(name=5), "model.name is 5; it must be a string"),
    "no name": (lambda d: d["model"].pop("name"), "model has no 'name'"),
    "a name with lines": (lambda d: d["model"].update(name="a\nb"), "printable"),
    "a name without end": (lambda d: d["model"].update(name="x" * 5000), "at most 1024"),
    "a type of another kind": (lambda d: d["model"].update(model_type=None), "model.model_type is None"),
    "no type": (lambda d: d["model"].pop("model_type"), "model has no 'model_type'"),
    "layers without number": (lambda d: d["model"].update(num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    "no options": (lambda d: d.pop("calibration_config"), "has no 'calibration_config'"),
    "options of another kind": (lambda d: d.update(calibration_config=3), "calibration_config is 3"),
    "unknown option": (lambda d: d["calibration_config"].update(speed=9), "no option(s) ['speed']"),
    "bad option": (lambda d: d["calibration_config"].update(residual_length=-5), "residual_length is -5"),
    "an absurd option": (lambda d: d["calibration_config"].update(sink_length=10**7), "sink_length is 10000000"),
    "unknown bits": (lambda d: d["calibration_config"].update(key_bits=3), "key_bits: 3"),
    "bits of other layers": (lambda d: d["calibration_config"].update(key_bits=4), "asks for d4b8x2 and d4b8 in"),
    "bits of more layers": (
        lambda d: d["calibration_config"].update(layer_bits=[[2, 2]] * 3),
        "layer_bits has 3 entries but the model has 2",
    ),
    "no hash": (lambda d: d.pop("tensors"), "has no 'tensors'"),
    "a hash of another kind": (lambda d: d.update(tensors="x"), "tensors is 'x'"),
    "a hash that is none": (lambda d: d["tensors"].update(sha256="x" * 64), "64 hexadecimal digits"),
    "a path as hash": (lambda d: d["tensors"].update(sha256="../" * 20), "64 hexadecimal digits"),
    "an unknown field of the hash": (lambda d: d["tensors"].update(md5="x"), "tensors has the unknown field(s) 'md5'"),
    "a fingerprint of another kind": (lambda d: d.update(weights_fingerprint=[1]), "weights_fingerprint is a list"),
    "an unknown field": (lambda d: d.update(speed=1), "unknown field(s) 'speed'"),
    "a list as provenance": (lambda d: d.update(provenance=["x"]), "provenance is a list; it must be an object"),
    "a string as metrics": (lambda d: d.update(metrics="x"), "metrics is 'x'; it must be an object"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIG_CHANGES)
def test_a_config_that_lies(saved, case):
    change, words = CONFIG_CHANGES[case]
    edit_config(saved, change)
    refused(saved, words)


def nested(levels):
    value = 1
    for _ in range(levels):
        value = {"a": value} if levels % 2 else [value]
    return value


@pytest.mark.parametrize("name", ["provenance", "metrics"])
def test_how_deep_provenance_and_metrics_may_go(saved, name):
    edit_config(saved, lambda d: d.update({name: {"x": nested(DEEPEST - 1)}}))
    Codebook.from_pretrained(saved).save_pretrained(saved)
    for levels in (DEEPEST, 200):
        edit_config(saved, lambda d, levels=levels: d.update({name: {"x": nested(levels)}}))
        refused(saved, f"{name} is nested deeper than {DEEPEST} levels")


def test_a_fingerprint_is_kept(saved):
    edit_config(saved, lambda d: d.update(weights_fingerprint="sha256-of-something"))
    loaded = Codebook.from_pretrained(saved)
    assert loaded.weights_fingerprint == "sha256-of-something"
    loaded.save_pretrained(saved)
    assert Codebook.from_pretrained(saved).weights_fingerprint == "sha256-of-something"


FOREIGN = [
    {"errors": [5]}, {"errors": [{}]}, {"errors": "x"}, {"errors": {"layer": 1}}, {"license": ["mit"]},
    {"license": "mit\nbase_model: evil"}, {"texts": 3}, {"texts": [[]]}, {"a|b": {"c": [1, None, {"d": "|\n"}]}},
    {"quality": ["x"]}, {"quality": [{}]}, {"quality": 5}, {"quality": {"text": {"a": [1]}}}, {"tokens": 10**60},
    {"": ""}, {"x": [[[[1]]]]}, {"errors": [{"layer": 0, "key": 5e-324, "value": 0}]},
]  # fmt: skip


@pytest.mark.parametrize("found", FOREIGN, ids=str)
def test_foreign_provenance_and_metrics_break_nothing(saved, found, capsys):
    """Whatever JSON objects somebody else has written there: they are kept, shown where their form is known."""
    from vecinfer_hf.cli.inspect import describe, print_codebook

    edit_config(saved, lambda d: d.update(provenance=found, metrics=found))
    codebook = Codebook.from_pretrained(saved)
    codebook.save_pretrained(saved)
    assert codebook.provenance == codebook.metrics == found
    assert Codebook.from_pretrained(saved).provenance == found
    json.dumps(describe(codebook), allow_nan=False)
    print_codebook(codebook)
    assert "keys" in capsys.readouterr().out
    head = (saved / "README.md").read_text().split("---\n")[1]
    assert "evil" not in head


# ---- what could not be loaded is not saved


@pytest.mark.parametrize(
    "found",
    [{"x": object()}, {"x": float("nan")}, {"x": nested(20)}, {"x": "\ud800"}, ["x"]],
    ids=["object", "nan", "deep", "half a pair", "list"],
)
def test_provenance_that_is_no_json_is_refused_before_anything_is_written(saved, found):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    codebook = make(4, 4)
    codebook.provenance = found
    with pytest.raises(CodebookError, match=r"(?i)provenance"):
        codebook.save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_numbers_and_bits_that_would_be_refused_are_not_saved(saved):
    codebook = make()
    codebook.layers[1].key_centroid_scale[0] = float("nan")
    with pytest.raises(CodebookError, match=r"layers\.1\.key\.centroid_scale has NaN"):
        codebook.save_pretrained(saved)
    codebook = make(4, 4)
    codebook.config = make().config
    with pytest.raises(CodebookError, match="asks for d4b8 and d4b8 in layer 0, which holds d4b8x2 and d4b8x2"):
        codebook.save_pretrained(saved)
    assert Codebook.from_pretrained(saved).bits_per_element == 2


def test_a_file_of_other_metadata_loads(saved):
    """safetensors files may carry notes; they are no part of a codebook."""
    save_file(load_file(saved / TENSORS_NAME), saved / TENSORS_NAME, metadata={"note": "by hand"})
    name_the_hash(saved)
    assert Codebook.from_pretrained(saved).bits_per_element == 2
