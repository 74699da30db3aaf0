# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""codebook_loading.py: the codebook a cache_config names, read once, and the message when there is none."""

import os

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf import Codebook, CodebookError
from vecinfer_hf.codebook.shipped import shipped_codebooks, shipped_names
from vecinfer_hf.integration.resolve import load_codebook


@pytest.fixture
def directory(tmp_path):
    random_codebook(tiny_config("llama")).save_pretrained(tmp_path / "codebook")
    return tmp_path / "codebook"


def load(name, **options):
    return load_codebook(tiny_config("llama"), {"codebook": str(name), **options})


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


def test_subfolders_are_different_codebooks(tmp_path):
    for bits in (2, 4):
        random_codebook(tiny_config("llama"), bits, bits).save_pretrained(tmp_path / f"{bits}bit")
    assert [load(tmp_path, subfolder=f"{bits}bit").bits_per_element for bits in (2, 4)] == [2, 4]


def test_home_directory_is_expanded(directory, monkeypatch):
    monkeypatch.setenv("HOME", str(directory.parent))
    assert torch.equal(load("~/codebook").layers[0].key_centroids, load(directory).layers[0].key_centroids)


def test_no_name_says_how_to_calibrate_and_where_to_look():
    for options in ({}, {"codebook": None}):
        with pytest.raises(CodebookError, match=r"(?s)cache_config=.*codebook.*vecinfer calibrate.*Shipped") as raised:
            load_codebook(tiny_config("llama"), options)
    for name in shipped_names():
        assert name in str(raised.value)


def test_a_failure_is_not_remembered(directory):
    content = (directory / "codebook.safetensors").read_bytes()
    (directory / "codebook.safetensors").write_bytes(content[:100])
    with pytest.raises(CodebookError):
        load(directory)
    (directory / "codebook.safetensors").write_bytes(content)
    assert load(directory).bits_per_element == 2


def test_auto_finds_nothing_for_an_unknown_model():
    with pytest.raises(CodebookError, match="vecinfer calibrate"):
        load("auto")


def test_shipped_names_are_those_in_the_package():
    for name in shipped_names():
        assert (shipped_codebooks() / name / "config.json").is_file()
        assert Codebook.from_pretrained(name).source["codebook"] == name


@pytest.mark.parametrize("name", ["../secret", "a/../../b"])
def test_a_name_with_dots_does_not_leave_the_shipped_directory(name, tmp_path, monkeypatch):
    from vecinfer_hf.codebook import codebook

    random_codebook(tiny_config("llama")).save_pretrained(tmp_path / "secret")
    random_codebook(tiny_config("llama")).save_pretrained(tmp_path / "b")
    (tmp_path / "shipped" / "a").mkdir(parents=True)
    monkeypatch.setattr(codebook, "shipped_codebooks", lambda: tmp_path / "shipped")
    monkeypatch.chdir(tmp_path / "shipped" / "a")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if name == "../secret":
        monkeypatch.chdir(tmp_path / "shipped" / "a")
    with pytest.raises((CodebookError, OSError, ValueError)):
        Codebook.from_pretrained(name)
