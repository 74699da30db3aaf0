# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Bad command lines: an exit code, one message, no traceback, and nothing written."""

import io
import shutil

import huggingface_hub.constants
import pytest
from bad_commands import bad_lines, make_places

from vecinfer_hf.cli.app import main


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return make_places(tmp_path_factory.mktemp("places"))


@pytest.fixture
def problem_with(capsys, monkeypatch, tmp_path):
    """Return a function: words -> what is wrong with how the command ends, or None."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(words):
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as stopped:
            code = stopped.code or 0
        except BaseException as error:
            capsys.readouterr()
            return f"a traceback: {type(error).__name__}: {str(error)[:120]}"
        out, err = capsys.readouterr()
        if code == 0:
            return f"exit code 0, printed {(out + err)[-100:]!r}"
        if not isinstance(code, int):
            return f"exit code {code!r}"
        text = out + err
        if "Traceback" in text:
            return "a traceback was printed"
        said = [
            line for line in err.splitlines() if line.startswith(("vecinfer: ", "Error", "Usage")) or "Error" in line
        ]
        if not said:
            return f"no message: {text[-200:]!r}"
        if sum(line.startswith("vecinfer: ") for line in err.splitlines()) > 1:
            return "more than one message"
        return None

    def cleaned(words):
        problem = run(words)
        left = list(tmp_path.iterdir())
        for path in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return problem or (f"left {[path.name for path in left]}" if left else None)

    return cleaned


def check(lines, problem_with):
    """Run the lines and fail with what was wrong, a line each."""
    problems = []
    for line in lines:
        problem = problem_with(line.words)
        if problem:
            problems.append(f"{line.words[0]}: {line.what} -> {problem}")
    assert not problems, "\n".join(["", *problems])


def test_some_bad_lines(places, problem_with, tmp_path):
    lines = list(bad_lines(places, tmp_path / "output"))
    check(lines[:: len(lines) // 40], problem_with)


@pytest.mark.slow
def test_all_bad_lines(places, problem_with, tmp_path):
    lines = list(bad_lines(places, tmp_path / "output"))
    assert len(lines) >= 300
    check(lines, problem_with)
