# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""How a command ends that cannot do its work: an exit code and one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import error_line

import vecinfer_hf
from vecinfer_hf.cli.app import main
from vecinfer_hf.errors import CacheStateError


def test_codebook_that_is_none(vecinfer, tmp_path):
    line = error_line(vecinfer("inspect", tmp_path))
    assert "config.json" in line


def test_unknown_option_is_refused_with_code_2(vecinfer):
    code, out, err = vecinfer("inspect", "--colour")
    assert code == 2
    assert out == ""
    assert "--colour" in err


def test_traceback_on_request(monkeypatch, tmp_path):
    monkeypatch.setenv("VECINFER_TRACEBACK", "1")
    with pytest.raises(ValueError, match=r"config\.json"):
        main(["inspect", str(tmp_path)])


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyError("x"), 1, "KeyError: 'x' (VECINFER_TRACEBACK=1 shows where)"),
        (MemoryError(), 1, "MemoryError: no message (VECINFER_TRACEBACK=1 shows where)"),
        (RuntimeError("CUDA error:\n  out of it"), 1, "RuntimeError: CUDA error: out of it (VECINFER"),
        (CacheStateError("Reset it."), 2, "vecinfer: Reset it."),
        (OSError("No such file."), 2, "vecinfer: No such file."),
    ],
)
def test_failures_inside_a_model(
    vecinfer, monkeypatch, tiny_model_directory, tiny_codebook_directory, error, code, text
):
    def fails(*_):
        raise error

    monkeypatch.setattr("vecinfer_hf.cli.app.generate.load_weights", fails)
    found = vecinfer("generate", tiny_model_directory, "-c", tiny_codebook_directory, "-p", "Hello")
    assert (found[0], found[1]) == (code, "")
    [line] = found[2].splitlines()
    assert text in line


def test_ctrl_c_is_code_130(vecinfer, monkeypatch, tiny_model_directory, tiny_codebook_directory):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("vecinfer_hf.cli.app.generate.load_weights", interrupted)
    found = vecinfer("generate", tiny_model_directory, "-c", tiny_codebook_directory, "-p", "Hello")
    assert (found[0], found[1], found[2]) == (130, "", "vecinfer: interrupted\n")


AS_MODULE, AS_SCRIPT = "as a module", "as a script"


@pytest.mark.parametrize("way", [AS_MODULE, AS_SCRIPT])
def test_ctrl_c_while_torch_is_imported_is_told_in_one_line(tmp_path, way):
    """The import takes seconds, before any command can catch anything."""
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    script = tmp_path / "vecinfer"
    script.write_text("from vecinfer_hf.cli.app import main\nmain()\n")
    root = Path(vecinfer_hf.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])}
    words = {AS_MODULE: ["-m", "vecinfer_hf", "doctor"], AS_SCRIPT: [script, "doctor"]}[way]
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "vecinfer: interrupted\n")


def test_ctrl_c_in_another_program_is_left_alone(tmp_path):
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    root = Path(vecinfer_hf.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])}
    words = [sys.executable, "-c", "import vecinfer_hf", "vecinfer"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 130
    assert "Traceback" in done.stderr
