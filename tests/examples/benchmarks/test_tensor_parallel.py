# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""examples/benchmarks/tensor_parallel.py: what it concludes, and the whole command over two gloo processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_config

from examples.benchmarks.tensor_parallel import Answer, compared, main


ROOT = Path(__file__).resolve().parents[3]


def answer(tokens, logits):
    return Answer(torch.tensor(tokens), torch.tensor(logits))


def test_a_token_may_differ_where_its_logits_are_closer_than_rounding():
    one, near = [[1.0, 0.0, 0.0], [1.0, 0.99, 0.0]], [[1.0, 0.01, 0.0], [1.0, 1.01, 0.0]]
    found = compared("default", answer([0, 0], one), answer([0, 1], near), None)
    assert (found["equal"], found["of"]) == (1, 2)
    assert found["margin"] == pytest.approx(0.01, abs=1e-6)
    assert "problem" not in found
    apart = [[1.0, 0.0, 0.0], [1.0, 0.2, 0.0]]
    found = compared("default", answer([0, 0], apart), answer([0, 1], apart), None)
    assert "do not explain" in found["problem"]


def test_codes_may_not_differ_much_more_than_the_default_cache():
    one, other = answer([0], [[1.0, 0.0]]), answer([0], [[1.0, 0.1]])
    assert "problem" not in compared("static", one, other, 0.04)
    assert "4 times" in compared("static", one, other, 0.01)["problem"]


def test_too_few_tokens_and_no_torchrun_are_refused(monkeypatch, capsys):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(SystemExit):
        main(["--tokens", "8"])
    assert "use at least 10" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="torchrun"):
        main([])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_command(tmp_path, family):
    tiny_config(family, vocab_size=96).save_pretrained(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    options = ["--shape", str(tmp_path), "--lengths", "200", "--prompt", "300", "--tokens", "10", "--profile"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [*command, "examples.benchmarks.tensor_parallel", *options],
        **{"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 500},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    caches = ("default", "growing", "static")
    assert {(line["placement"], line["cache"]) for line in lines if line["what"] == "decode"} == {
        (placement, cache) for placement in ("one process", "2 processes") for cache in caches
    }
    assert all(line["milliseconds"] > 0 for line in lines if line["what"] == "decode")
    assert [line["share"] for line in lines if line["what"] == "share"] == pytest.approx([0.5] * 3, abs=0.02)
    assert all(line["equal"] == line["of"] == 10 for line in lines if line["what"] == "tokens")
