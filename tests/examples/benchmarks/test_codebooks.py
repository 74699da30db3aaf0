# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m examples.benchmarks.codebooks`: the families' shapes, and the whole command on tiny models."""

import json

import pytest
import torch
from tiny_models import tiny_config
from transformers import AutoModelForCausalLM

from examples.benchmarks import codebooks as module
from vecinfer_hf.model_info import full_attention_layers, unsupported_reason


@pytest.mark.parametrize("name", module.FAMILIES)
def test_the_families_have_the_shapes_they_are_named_after(name):
    config = module.family_config(name, 4)
    assert unsupported_reason(config) is None
    assert len(full_attention_layers(config)) == (4 if name.startswith("qwen3") else 2)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert 5e8 < sum(parameter.numel() for parameter in model.parameters()) < 6e9


def test_the_command_prints_a_row_for_each(tmp_path, capsys, monkeypatch):
    sizes = {"max_position_embeddings": 512}
    tiny_config("llama", **sizes).save_pretrained(tmp_path)
    monkeypatch.setattr(module, "FAMILIES", {"gemma3": None, "broken": None})

    def family_config(name, layers):
        if name == "broken":
            raise ValueError("no such family")
        return tiny_config(name, **sizes)

    monkeypatch.setattr(module, "family_config", family_config)
    with pytest.raises(SystemExit) as stopped:
        module.main(["--shape", str(tmp_path), "--device", "cpu", "--budget", "0.3", "--tokens", "200"])
    assert not stopped.value.code
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["row"] for row in lines] == ["machine", "online", "made", "made", "failed"]
    assert lines[1]["fit_seconds"] > 0
    assert lines[2]["layers"] == 2
    assert lines[3]["layers"] == 1
    assert lines[2]["plan"]["rows"] > 0
    assert "no such family" in lines[4]["error"]
