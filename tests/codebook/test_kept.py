# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""kept.py: the user's directory of codebooks: what lies in it, its names, and what does not belong there."""

import threading

import pytest
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf import CodebookError
from vecinfer_hf.codebook import kept as module
from vecinfer_hf.codebook.kept import (
    find_kept,
    keep,
    kept_codebook,
    kept_codebooks,
    load_kept,
    locked,
    remove_kept,
)


FIRST, SECOND = "a" * 64, "ab" * 32


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv(module.ROOT_VARIABLE, str(tmp_path / "made here"))
    return tmp_path / "made here"


def made(fingerprint, bits="2bit"):
    codebook = random_codebook(tiny_config("llama"))
    codebook.weights_fingerprint = fingerprint
    keep(kept_codebook(fingerprint, bits), codebook)
    return kept_codebook(fingerprint, bits)


def test_what_is_kept_is_found_and_removed():
    assert kept_codebooks() == []
    first, second = made(FIRST), made(SECOND)
    assert kept_codebooks() == [first, second]
    assert find_kept(first.name) == find_kept("aa") == find_kept("aaaa/2bit") == first
    assert load_kept(second).weights_fingerprint == SECOND
    remove_kept(first)
    assert kept_codebooks() == [second]
    assert load_kept(first) is None


@pytest.mark.parametrize(
    ("name", "words"), [("", "no kept"), ("c", "no kept"), ("a", "2 kept"), ("aa/4bit", "no kept")]
)
def test_a_name_that_means_none_or_several_is_refused(name, words):
    made(FIRST), made(SECOND)
    with pytest.raises(CodebookError, match=words):
        find_kept(name)


def test_another_format_has_a_directory_of_its_own(root, monkeypatch):
    made(FIRST)
    monkeypatch.setattr(module, "FORMAT_VERSION", 99)
    assert kept_codebooks() == []
    made(SECOND)
    assert {path.name for path in root.iterdir()} == {"format-2", "format-99"}


def test_a_codebook_for_other_weights_is_refused():
    place = made(FIRST)
    moved = kept_codebook(SECOND, "2bit")
    moved.directory.parent.mkdir(parents=True)
    place.directory.rename(moved.directory)
    with pytest.raises(CodebookError, match="other weights"):
        load_kept(moved)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format_version": 3}'])
def test_what_is_no_codebook_is_written_over(content):
    place = made(FIRST)
    (place.directory / "config.json").write_bytes(content)
    with pytest.raises(CodebookError):
        load_kept(place)
    made(FIRST)
    assert load_kept(place).weights_fingerprint == FIRST


def test_one_at_a_time_is_in_the_block():
    place, order = kept_codebook(FIRST, "2bit"), []
    waiting, release = threading.Event(), threading.Event()

    def other():
        with locked(place, waiting.set):
            order.append("other")

    with locked(place):
        thread = threading.Thread(target=other)
        thread.start()
        assert waiting.wait(20)
        order.append("first")
        release.set()
    thread.join(20)
    assert order == ["first", "other"]
