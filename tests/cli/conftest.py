# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the command line's tests."""

import pytest

from vecinfer_hf.cli.app import main


@pytest.fixture
def vecinfer(capsys, monkeypatch):
    """Run the command line; returns (exit code, standard output, standard error)."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def book(tmp_path):
    """A small text file."""
    path = tmp_path / "book.txt"
    path.write_text("The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 120)
    return path
