# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Files of codebooks that lie, in format 1, which has no hashes; and saves that are stopped at any of their steps."""

import json
import os
from pathlib import Path

import pytest
import torch
from disturbed_sequences import InterruptAtLine, Interruption
from edge_cases import REFUSED, new_cache, right_or_refused, run, tiny_config, tiny_model
from format_1 import edit, set_number, write_format_1
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs

from vecinfer_hf import Codebook, CodebookError, VecInferConfig


pytestmark = pytest.mark.sampled(5)


@pytest.fixture(params=["smooth_scale", "matrix"])
def directory(request, tmp_path):
    write_format_1(tmp_path / "codebook", tiny_config("llama"), kind=request.param)
    return tmp_path / "codebook"


def test_format_1_is_read(directory):
    codebook = Codebook.from_pretrained(directory)
    assert list(codebook.layers) == [0, 1]


ABSURD = [3e38, -3e38, 1e30, 1e20, 1e-30, 1e-45, 0.0, -1.0]


@pytest.mark.parametrize("value", ABSURD)
@pytest.mark.parametrize("name", ["centroid_scale", "mean", "transform"])
@pytest.mark.parametrize("side", ["key", "value"])
def test_absurd_numbers_are_refused_or_do_no_harm(directory, side, name, value):
    """A number that makes NaN or Inf of ordinary keys and values is no number of a codebook."""
    kind = json.loads((directory / "config.json").read_text())["layers"][0]["key_transform"]
    set_number(directory, f"{side}.{kind if name == 'transform' else name}", value)
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    try:
        codebook = Codebook.from_pretrained(directory)
    except CodebookError:
        return
    cache, ids = new_cache(model.config, codebook=codebook), tiny_inputs(1, 80)
    logits = [run(model, ids[:, a:b], cache) for a, b in ((0, 50), (50, 51), (51, 80))]
    assert all(part.isfinite().all() for part in logits)


@pytest.mark.parametrize("depth", [100, 10_000, 1_000_000])
@pytest.mark.parametrize("field", ["metrics", "provenance", "layers", "format_version"])
@pytest.mark.parametrize("bracket", ["[]", "{}"])
def test_nested_json_is_refused(tmp_path, field, depth, bracket):
    directory = tmp_path
    write_format_1(directory, tiny_config("llama"))
    config = json.loads((directory / "config.json").read_text())
    config[field] = "HERE"
    opening = "[" if bracket == "[]" else '{"a":'
    nested = opening * depth + "1" + bracket[1] * depth
    (directory / "config.json").write_text(json.dumps(config).replace('"HERE"', nested))
    if depth == 100 and field in ("metrics", "provenance"):
        right_or_refused(lambda: Codebook.from_pretrained(directory), own=True)
        return
    with pytest.raises(CodebookError, match="config.json"):
        Codebook.from_pretrained(directory)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1", "cp1252"])
def test_json_in_another_encoding_is_refused(directory, encoding):
    path = directory / "config.json"
    edit(directory, lambda config: config["model"].update(name="Käthe/Müller"))
    text = path.read_text().encode().decode("unicode_escape")
    path.write_bytes(text.encode(encoding))
    with pytest.raises(CodebookError, match="config.json"):
        Codebook.from_pretrained(directory)


@pytest.mark.parametrize("name", ["residual_length", "sink_length"])
@pytest.mark.parametrize("value", [10_000_000, 2**31, 2**63, 10**30, -1, 1.5, "8", True])
def test_lengths_have_bounds(directory, name, value):
    edit(directory, lambda config: config["vecinfer_config"].update({name: value}))
    with pytest.raises(CodebookError, match=name):
        Codebook.from_pretrained(directory)


@pytest.mark.parametrize("name", ["residual_length", "sink_length", "max_cache_len"])
def test_lengths_that_a_user_gives_have_bounds(name):
    """Ten million sinks would be allocated at the first call."""
    given = {"residual_length": 10_000_000, "sink_length": 10_000_000, "max_cache_len": 2**62}[name]
    static = {"static": True} if name == "max_cache_len" else {}
    model = tiny_model("llama")
    result = right_or_refused(lambda: new_cache(model.config, **{name: given, **static}))
    if result is not REFUSED:
        result = right_or_refused(lambda: run(model, tiny_inputs(1, 5), result))
    # A window that grows with the text needs no bound of its own.
    assert result is REFUSED or name == "residual_length"


@pytest.mark.parametrize("name", ["config.json", "codebook.safetensors"])
@pytest.mark.parametrize("kind", ["directory", "broken link", "link to itself", "pipe", "unreadable", "empty"])
def test_what_is_no_file_is_refused(directory, name, kind):
    path = directory / name
    if kind == "unreadable":
        if os.geteuid() == 0:
            pytest.skip("root reads everything")
        path.chmod(0)
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        {
            "directory": path.mkdir,
            "broken link": lambda: path.symlink_to(directory / "nothing"),
            "link to itself": lambda: path.symlink_to(path),
            "pipe": lambda: os.mkfifo(path),
        }[kind]()
    with pytest.raises(CodebookError, match=name):
        Codebook.from_pretrained(directory)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "~", "\x00", "a\x00b", " ", "a/b/c/d", "x" * 5000, "/dev/null", "ä/ö"]
)
def test_names_that_are_no_codebooks_are_refused(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = right_or_refused(lambda: Codebook.from_pretrained(name), own=True)
    assert result is REFUSED


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("provenance", ["x"]),
        ("provenance", "x"),
        ("provenance", {"errors": [5]}),
        ("provenance", {"errors": [{}]}),
        ("provenance", {"errors": 7}),
        ("provenance", {"errors": [{"layer": [1], "key": "x", "value": None}]}),
        ("provenance", {"texts": [{"name": 5, "tokens": "x"}]}),
        ("provenance", {"texts": 5}),
        ("metrics", "x"),
        ("metrics", [1]),
        ("metrics", {"quality": ["x"]}),
        ("metrics", {"quality": [{"text": [], "perplexity_ratio": "x"}]}),
        ("model.name", None),
        ("model.name", 5),
        ("model.name", ["x"]),
        ("model.revision", {"a": 1}),
        ("model.model_type", 5),
        ("model.quantized_layers", "x"),
        ("model.num_hidden_layers", "2"),
    ],
    ids=str,
)
def test_foreign_provenance_is_refused_or_shown(directory, field, value):
    """Somebody else's facts of another type: no reader of them fails."""
    from vecinfer_hf.cli.inspect import describe, print_codebook
    from vecinfer_hf.hub.card import codebook_card

    def change(config):
        *path, last = field.split(".")
        entry = config
        for name in path:
            entry = entry[name]
        entry[last] = value
        if value is None:
            del entry[last]

    edit(directory, change)
    codebook = right_or_refused(lambda: Codebook.from_pretrained(directory), own=True)
    if codebook is REFUSED:
        return
    repr(codebook)
    json.dumps(describe(codebook))
    print_codebook(codebook)
    codebook_card(codebook)
    right_or_refused(lambda: codebook.check_model(tiny_config("llama")), own=True)
    right_or_refused(lambda: codebook.save_pretrained(directory.parent / "again"), own=True)


def state_of(directory):
    """Return which of two codebooks a directory holds, or what is wrong with it."""
    try:
        loaded = Codebook.from_pretrained(directory)
    except CodebookError as error:
        return f"damaged: {error}"
    return {2: "old", 9: "new"}.get(loaded.metrics.get("seed"), "another"), [
        tensor.double().sum().item() for layer in loaded.layers.values() for tensor in layer if tensor is not None
    ]


def seeded(seed):
    codebook = random_codebook(tiny_config("llama"), seed=seed)
    codebook.metrics["seed"] = seed
    return codebook


@pytest.mark.slow
def test_a_save_that_is_stopped_at_any_line_leaves_a_codebook(tmp_path):
    """The old one, or the new one; in every tensor and every word."""
    old, new = tmp_path / "old", tmp_path / "new"
    seeded(2).save_pretrained(old)
    seeded(9).save_pretrained(new)
    allowed = [state_of(old), state_of(new)]
    book, line = seeded(9), 1
    while True:
        target = tmp_path / str(line)
        seeded(2).save_pretrained(target)
        try:
            with InterruptAtLine(line) as interrupt:
                book.save_pretrained(target)
        except Interruption:
            assert state_of(target) in allowed, f"stopped at {interrupt.place}"
            assert {path.name for path in target.iterdir()} >= {"config.json", "codebook.safetensors", "README.md"}
        else:
            break
        line += 1
    assert line > 20


@pytest.mark.parametrize("failing", ["rename", "replace", "move", "unlink", "write_text", "mkdir"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_save_whose_disk_fails_leaves_the_old_codebook(tmp_path, monkeypatch, failing, number):
    """The number-th call of an operation that moves files raises, as on a full disk."""
    import shutil

    seeded(2).save_pretrained(tmp_path / "codebook")
    before = state_of(tmp_path / "codebook")
    seeded(9).save_pretrained(tmp_path / "new")
    after = state_of(tmp_path / "new")
    owner = {"move": shutil, "write_text": Path, "mkdir": Path, "unlink": Path}.get(failing, os)
    original, calls = getattr(owner, failing), []

    def fails(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise OSError(28, "No space left on device")
        return original(*args, **kwargs)

    book = seeded(9)
    monkeypatch.setattr(owner, failing, fails)
    try:
        book.save_pretrained(tmp_path / "codebook")
    except (OSError, CodebookError):
        pass
    monkeypatch.undo()
    # A README.md alone may be missing its last state; what is loaded is one codebook, whole.
    assert state_of(tmp_path / "codebook") in (before, after)


@pytest.mark.parametrize("name", ["config.json", "codebook.safetensors", "README.md"])
def test_a_save_over_a_directory_of_a_files_name_is_refused(tmp_path, name):
    target = tmp_path / "codebook"
    (target / name).mkdir(parents=True)
    (target / name / "precious").write_text("x")
    with pytest.raises((CodebookError, OSError), match=name):
        seeded(2).save_pretrained(target)
    assert (target / name / "precious").read_text() == "x"


def test_a_config_with_foreign_keys_and_a_codebook_that_is_equal(directory):
    """What this version does not know in metrics and provenance is kept."""
    edit(directory, lambda config: config["metrics"].update(later={"a": [1, {"b": None}]}))
    codebook = Codebook.from_pretrained(directory)
    codebook.save_pretrained(directory.parent / "again")
    assert Codebook.from_pretrained(directory.parent / "again").metrics["later"] == {"a": [1, {"b": None}]}
    assert isinstance(VecInferConfig(), VecInferConfig)


def test_saving_and_loading_keeps_every_bit(directory):
    first = Codebook.from_pretrained(directory)
    first.save_pretrained(directory.parent / "again")
    second = Codebook.from_pretrained(directory.parent / "again")
    for index, layer in first.layers.items():
        for mine, theirs in zip(layer, second.layers[index], strict=True):
            assert mine is None or torch.equal(mine, theirs)
