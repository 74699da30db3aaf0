# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""make.py between processes: one makes a codebook, others wait for it, and one that is killed leaves no harm."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pages import ROOT


PROGRAM = """
import sys, time, pathlib
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from tiny_models import tiny_inputs, tiny_model
from vecinfer_hf import enable
from vecinfer_hf.integration import make
here, started = make.make_codebook, pathlib.Path(sys.argv[2])
def making(*args, **options):
    codebook = here(*args, **options, progress=False)
    (started / f"made-{sys.argv[3]}").touch()
    while sys.argv[4] == "slow" and not (started / "go on").exists():
        time.sleep(0.05)
    return codebook
make.make_codebook = making
model = enable(tiny_model("llama", max_position_embeddings=512), budget=0.2)
print(model.generate(tiny_inputs(), max_new_tokens=4).tolist(), flush=True)
"""


@pytest.fixture
def start(tmp_path):
    """Start a process that enables a model; `slow` ones wait for the file `go on` before they keep what they made."""
    (tmp_path / "flags").mkdir()
    running = []

    def process(name, speed="fast"):
        environment = {**os.environ, "VECINFER_CODEBOOKS": str(tmp_path / "kept"), "VECINFER_MAKE_CODEBOOK": "1",
                       "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # fmt: skip
        words = [sys.executable, "-c", PROGRAM, str(ROOT / "tests" / "support"), str(tmp_path / "flags"), name, speed]
        running.append(
            subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return running[-1]

    yield process
    for each in running:
        each.kill()
        each.communicate()


def wait_for(path: Path, seconds=240):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.1)


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


@pytest.mark.slow
def test_of_two_processes_one_makes_it_and_a_third_finds_it(start, tmp_path):
    first = start("first", "slow")
    wait_for(tmp_path / "flags" / "made-first")
    second = start("second")
    while "waiting for" not in (line := second.stderr.readline()):
        assert line, "the second process ended"
    (tmp_path / "flags" / "go on").touch()
    texts = [finished(process)[0] for process in (first, second, start("third"))]
    assert len(set(texts)) == 1
    assert [path.name for path in (tmp_path / "flags").glob("made-*")] == ["made-first"]


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_in_the_way(start, tmp_path):
    first = start("first", "slow")
    wait_for(tmp_path / "flags" / "made-first")
    first.send_signal(signal.SIGKILL)
    first.wait(60)
    second = finished(start("second"))[0]
    assert (tmp_path / "flags" / "made-second").exists()
    assert finished(start("third"))[0] == second
    assert not (tmp_path / "flags" / "made-third").exists()
