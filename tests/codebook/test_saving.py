# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""saving.py: whenever a save stops, the old or the new codebook loads; what else lies in the directory stays."""

import shutil
import threading

import pytest
import torch
from codebook_edits import CONFIG_NAME, TENSORS_NAME, contents
from format_1 import save_format_1
from power_loss import Machine
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf import Codebook, CodebookError
from vecinfer_hf.codebook.saving import GENERATED


def make(seed=0, mark=None, bits=2):
    codebook = random_codebook(tiny_config("llama", num_hidden_layers=1), bits, bits, seed=seed)
    codebook.metrics = {"mark": mark if mark is not None else seed}
    return codebook


OLD, NEW = make(1), make(2)
USERS = {"notes.txt": b"mine", "codebook-old.safetensors": b"mine too", ".hidden": b"and mine"}


def stopped_after_the_commit(directory, monkeypatch):
    """OLD, whose save stopped between the two replacements, over yet another codebook."""
    make(3).save_pretrained(directory)
    stop = 0
    while True:
        with (machine := Machine(stop)).running(monkeypatch):
            OLD.save_pretrained(directory)
        if f"replace {CONFIG_NAME}" in machine.log:
            break
        stop += 1
    assert machine.stopped
    assert len([name for name in contents(directory) if name.endswith(".safetensors")]) == 2


def stopped_before_the_commit(directory, monkeypatch):
    """OLD, and the leftovers of a save of NEW that stopped before it counted."""
    OLD.save_pretrained(directory)
    with (machine := Machine(4)).running(monkeypatch):
        NEW.save_pretrained(directory)
    assert machine.stopped
    assert len(contents(directory)) > 3


BEFORE = {
    "nothing": lambda directory, _: directory.mkdir(),
    "no directory": lambda directory, _: None,
    "an old one": lambda directory, _: OLD.save_pretrained(directory),
    "format 1": lambda directory, _: save_format_1(OLD, directory),
    "the same tensors": lambda directory, _: make(2, mark=1).save_pretrained(directory),
    "stopped before the commit": stopped_before_the_commit,
    "stopped after the commit": stopped_after_the_commit,
}


def same(first, second):
    return first.metrics == second.metrics and all(
        torch.equal(ours.key_centroids, theirs.key_centroids)
        for ours, theirs in zip(first.layers.values(), second.layers.values(), strict=True)
    )


@pytest.mark.parametrize("loses", [None, "all", "oldest"])
@pytest.mark.parametrize("before", BEFORE)
def test_a_save_that_stops_at_any_step(before, loses, tmp_path, monkeypatch):
    found, log = [], []
    start, directory = tmp_path / "start", tmp_path / "directory"
    BEFORE[before](start, monkeypatch)
    for name, content in USERS.items() if start.is_dir() else ():
        (start / name).write_bytes(content)
    for stop in range(100):
        if start.is_dir():
            shutil.copytree(start, directory)
        with (machine := Machine(stop, loses)).running(monkeypatch):
            NEW.save_pretrained(directory)
        try:
            loaded = Codebook.from_pretrained(directory)
        except CodebookError:
            assert before in ("nothing", "no directory"), f"lost at step {stop} of {machine.log}"
            found.append("nothing")
        else:
            found.append("new" if same(loaded, NEW) else "old")
            old = make(2, mark=1) if before == "the same tensors" else OLD
            assert same(loaded, NEW) or same(loaded, old)
        if before != "no directory":
            assert {name: contents(directory)[name] for name in USERS} == USERS
        # And the next save puts everything right.
        NEW.save_pretrained(directory)
        assert same(Codebook.from_pretrained(directory), NEW)
        assert set(contents(directory)) - set(USERS) == {CONFIG_NAME, TENSORS_NAME, "README.md"}
        shutil.rmtree(directory)
        if not machine.stopped:
            log = machine.log
            break
    assert found[-1] == "new"
    assert len(found) > 8
    first = found.index("new")
    assert set(found[first:]) == {"new"}, found
    assert set(found[:first]) == ({"nothing"} if before in ("nothing", "no directory") else {"old"}), found
    assert log.index(f"replace {CONFIG_NAME}") > 3


def test_the_model_of_a_machine_loses_what_is_not_synchronized(tmp_path, monkeypatch):
    """What the test above relies on: without the calls of fsync it finds the faults."""
    lost = 0
    for stop in range(20):
        directory = tmp_path / f"{stop}"
        OLD.save_pretrained(directory)
        with (machine := Machine(stop, "all")).running(monkeypatch):
            with monkeypatch.context() as patch:
                patch.setattr("os.fsync", lambda handle: None)  # over the machine's own
                NEW.save_pretrained(directory)
        try:
            Codebook.from_pretrained(directory)
        except CodebookError:
            lost += 1
        if not machine.stopped:
            break
    assert lost > 0


def test_failures_that_are_no_stop_leave_nothing_behind(tmp_path, monkeypatch):
    OLD.save_pretrained(tmp_path)
    before = contents(tmp_path)

    def full(handle):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        NEW.save_pretrained(tmp_path)
    assert contents(tmp_path) == before


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in ("a", "b", "a"):
        OLD.save_pretrained(tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_tensors_that_are_there_are_not_written_again(tmp_path):
    OLD.save_pretrained(tmp_path)
    before = (tmp_path / TENSORS_NAME).stat()
    make(1, mark="measured").save_pretrained(tmp_path)
    after = (tmp_path / TENSORS_NAME).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert Codebook.from_pretrained(tmp_path).metrics == {"mark": "measured"}


def test_saving_over_an_older_codebook_replaces_it(tmp_path):
    OLD.save_pretrained(tmp_path)
    make(bits=4).save_pretrained(tmp_path)
    assert Codebook.from_pretrained(tmp_path).bits_per_element == 4


# ---- places where something else would be lost


def test_saving_to_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CodebookError, match="it is a file; give a directory"):
        OLD.save_pretrained(tmp_path / "file")
    assert contents(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("content", [b'{"model_type": "llama"}', b"[1]", b"no json", b"", b"\xff"])
def test_a_config_of_something_else_is_not_overwritten(tmp_path, content):
    (tmp_path / CONFIG_NAME).write_bytes(content)
    with pytest.raises(CodebookError, match="no codebook's and would be lost; give another directory"):
        OLD.save_pretrained(tmp_path)
    assert contents(tmp_path) == {CONFIG_NAME: content}


def test_a_damaged_codebook_can_be_replaced(tmp_path):
    OLD.save_pretrained(tmp_path)
    (tmp_path / CONFIG_NAME).write_bytes(b'{"format_version": 2, ')
    NEW.save_pretrained(tmp_path)
    assert same(Codebook.from_pretrained(tmp_path), NEW)


@pytest.mark.parametrize("name", [CONFIG_NAME, TENSORS_NAME, "README.md"])
def test_a_directory_in_the_place_of_a_file(tmp_path, name):
    (tmp_path / name / "x").mkdir(parents=True)
    with pytest.raises(CodebookError, match=f"{name} is not a file; give another directory"):
        OLD.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_readme_of_one_s_own_stays(tmp_path):
    (tmp_path / "README.md").write_text("My own words.\n")
    OLD.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "My own words.\n"
    (tmp_path / "README.md").unlink()
    OLD.save_pretrained(tmp_path)
    first = (tmp_path / "README.md").read_text()
    assert GENERATED in first
    make(bits=4).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() != first


# ---- several at once


def test_saves_and_loads_at_the_same_time(tmp_path):
    """Two writers and a reader: every load gives one of the two codebooks, whole."""
    OLD.save_pretrained(tmp_path)
    ended = threading.Event()

    def save(codebook):
        while not ended.is_set():
            codebook.save_pretrained(tmp_path)

    writers = [threading.Thread(target=save, args=(codebook,)) for codebook in (OLD, NEW)]
    for writer in writers:
        writer.start()
    try:
        seen = set()
        for count in range(500):
            if count >= 20 and seen == {1, 2}:
                break
            loaded = Codebook.from_pretrained(tmp_path)
            seen.add(loaded.metrics["mark"])
            assert same(loaded, OLD) or same(loaded, NEW)
    finally:
        ended.set()
        for writer in writers:
            writer.join()
    assert seen == {1, 2}
    assert set(contents(tmp_path)) == {CONFIG_NAME, TENSORS_NAME, "README.md"}
