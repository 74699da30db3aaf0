# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What is made appears whole or not at all, once for all who ask; and a failed download says why."""

import threading

import pytest

from examples.assets import storage
from examples.assets.downloads import run_download


def test_make_once_makes_once_for_all_who_ask(tmp_path):
    calls = []
    started = threading.Barrier(4)

    def make(directory):
        calls.append(directory)
        directory.mkdir()
        (directory / "file").write_text("whole")

    def ask():
        started.wait()
        assert (storage.make_once(tmp_path / "a" / "target", make) / "file").read_text() == "whole"

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_a_failed_or_killed_making_leaves_nothing_behind(tmp_path):
    target = tmp_path / "target"

    def fail(directory):
        directory.mkdir()
        (directory / "half").touch()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        storage.make_once(target, fail)
    assert not target.exists()
    # A killed process cannot clean up; the next one does.
    (tmp_path / ".target.unfinished").mkdir()
    (tmp_path / ".target.unfinished" / "half").touch()
    storage.make_once(target, lambda path: path.write_text("whole"))
    assert target.read_text() == "whole"
    assert not list(tmp_path.glob(".*unfinished*"))


def test_the_place_is_in_the_checkout_unless_the_environment_names_another(tmp_path, monkeypatch):
    monkeypatch.setenv("VECINFER_MODELS", str(tmp_path))
    assert storage.models_directory() == tmp_path
    monkeypatch.delenv("VECINFER_MODELS")
    root = storage.models_directory().parent
    assert (root / "pyproject.toml").is_file()
    assert "/models/" in (root / ".gitignore").read_text().splitlines()


def test_run_tells_why_a_command_failed(tmp_path):
    assert run_download(["sh", "-c", "exit 0"], tmp_path) is None
    assert run_download(["sh", "-c", "echo first; echo last >&2; exit 3"], tmp_path) == "last"
    assert "no-such-program" in run_download(["no-such-program"], tmp_path)
