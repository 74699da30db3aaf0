# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""load_text: the excerpts, files and standard input; what is no text is refused with the remedy."""

import io

import pytest

from vecinfer_hf.calibration.text import load_text


@pytest.mark.parametrize(
    ("name", "beginning"), [("persuasion-excerpt", "Persuasion"), ("northanger-excerpt", "CHAPTER 1")]
)
def test_the_excerpts_come_with_the_package(name, beginning, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("a file of that name")
    text = load_text(name)
    assert text.startswith(beginning)
    assert len(text) > 30_000


def test_files(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("café\r\n\rend".encode())
    assert load_text(path) == load_text(str(path)) == path.read_text(encoding="utf-8") == "café\n\nend"


def test_standard_input_is_utf8_whatever_the_terminal_is(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("café".encode()), encoding="latin-1"))
    assert load_text("-") == "café"


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"text\.txt is not UTF-8 text .* convert it first"):
        load_text(path)
    path.write_text(" \n")
    with pytest.raises(ValueError, match=r"text\.txt holds no text"):
        load_text(path)
    for missing in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{missing} is no file; .* or an excerpt .*: persuasion-excerpt"):
            load_text(missing)
