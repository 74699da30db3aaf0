# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The code cells of examples/vecinfer.ipynb run top to bottom: on a tiny model, and with --slow as they are."""

import json
import re

import pytest
from pages import ROOT


def cells():
    notebook = json.loads((ROOT / "examples" / "vecinfer.ipynb").read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(settings):
    """Run all cells in one namespace, with other values for the names of the settings cell; return the namespace."""
    namespace = {}
    for index, cell in enumerate(cells()):
        exec(compile(cell, f"vecinfer.ipynb, code cell {index}", "exec"), namespace)
        if "MODEL" in namespace and settings:
            assert set(settings) <= set(namespace)
            namespace.update(settings)
            settings = {}
    return namespace


def check(printed, bits):
    assert "--- default cache" in printed
    assert "--- 2 bits" in printed
    coded, default = re.search(r"tokens: ([\d,]+) bytes; the default cache takes ([\d,]+)", printed).groups()
    assert int(coded.replace(",", "")) != int(default.replace(",", ""))
    assert len(re.findall(rf"perplexity [\d.]+ at {bits} bits\ndefault cache: [\d.]+", printed)) == 2


def test_it_runs_on_a_tiny_model(tiny_model_directory, tiny_codebook_directory, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = {
        "MODEL": str(tiny_model_directory),
        "CODEBOOK": str(tiny_codebook_directory),
        "PROMPT_TOKENS": 300,
        "NEW_TOKENS": 8,
        "CALIBRATION_TOKENS": 1024,
    }
    namespace = run(settings)
    assert namespace["coded"].shape[1] == 308
    # Heads of 16 channels: the value plane of a tile has as much padding.
    check(capsys.readouterr().out, 3)
    assert (tmp_path / "my-codebook" / "config.json").is_file()


@pytest.mark.slow
def test_it_runs_as_it_is(smollm2_path, tmp_path, monkeypatch, capsys):
    """With the directory of the model instead of its name on the Hub."""
    monkeypatch.chdir(tmp_path)
    namespace = run({"MODEL": str(smollm2_path)})
    printed = capsys.readouterr().out
    check(printed, 2)
    assert namespace["cache"].nbytes < namespace["cache"].stock_nbytes() / 3
