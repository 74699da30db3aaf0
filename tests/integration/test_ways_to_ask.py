# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Every way to ask for codes gives the same tokens; the user's objects and saved models are as they should be."""

import copy
import json
import subprocess
import sys

import torch
import transformers
from tiny_codebooks import random_codebook
from tiny_generate import LONG, SHORT, greedy, with_vecinfer
from tiny_models import tiny_inputs, tiny_model
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.cache_utils import DynamicCache

from vecinfer_hf import VecInferCache, VecInferConfig, disable, enable
from vecinfer_hf.integration.compat import cache_argument


def test_pipeline(codebooks):
    model = tiny_model("llama")
    vocab = {f"t{index}": index for index in range(97)}
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel(vocab, unk_token="t1"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="t0", padding_side="left")
    text = " ".join(f"t{index}" for index in tiny_inputs(1, 20)[0].tolist())
    pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    generation = GenerationConfig(max_new_tokens=20, do_sample=False, pad_token_id=0)
    stock = pipe(text, generation_config=generation)
    kwargs = with_vecinfer(codebooks(model), LONG)
    generation = GenerationConfig(max_new_tokens=20, do_sample=False, pad_token_id=0, **kwargs)
    assert pipe(text, generation_config=generation) == stock


def test_every_way_to_ask_for_it_gives_the_same_tokens(codebooks, tmp_path):
    model = tiny_model("llama")
    directory, ids = codebooks(model), tiny_inputs(1, 60)
    model.save_pretrained(tmp_path / "model")
    options = {"codebook": directory, **SHORT}
    results = {
        "explicit": greedy(tiny_model("llama"), 40, input_ids=ids, **with_vecinfer(directory, SHORT)),
        "backend": greedy(tiny_model("llama"), 40, input_ids=ids, cache_config={"backend": "vecinfer", **options}),
        "quantized": greedy(
            tiny_model("llama"), 40, input_ids=ids, cache_implementation="quantized",
            cache_config={"backend": "vecinfer", **options},
        ),
        "generation config": tiny_model("llama").generate(
            ids,
            generation_config=GenerationConfig(
                cache_config={"backend": "vecinfer", **options}, pad_token_id=0, max_new_tokens=40, do_sample=False
            ),
        ),
        "enable": greedy(enable(tiny_model("llama"), VecInferConfig(**options)), 40, input_ids=ids),
        "enable with an object": greedy(
            enable(tiny_model("llama"), random_codebook(model.config), **SHORT), 40, input_ids=ids
        ),
        "user cache": greedy(
            model, 40, input_ids=ids, **cache_argument(VecInferCache(model.config, directory, **SHORT))
        ),
    }  # fmt: skip
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", quantization_config=VecInferConfig(**options), dtype=torch.float32
    )
    loaded.generation_config.eos_token_id = None
    results["quantization config"] = greedy(loaded, 40, input_ids=ids)
    enable(model, VecInferConfig(**options)).save_pretrained(tmp_path / "enabled")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "enabled", dtype=torch.float32)
    results["saved and loaded"] = greedy(again, 40, input_ids=ids)
    first = results.pop("explicit")
    assert first.shape == (1, 100)
    for name, tokens in results.items():
        assert torch.equal(first, tokens), name


def test_a_users_cache_wins_over_a_default_one(codebooks):
    model = enable(tiny_model("llama"), VecInferConfig(codebook=codebooks(tiny_model("llama")), **SHORT))
    cache = DynamicCache(config=model.config)
    output = greedy(model, input_ids=tiny_inputs(1, 60), **cache_argument(cache))
    assert cache.get_seq_length() == 89
    assert torch.equal(output, greedy(disable(model), input_ids=tiny_inputs(1, 60)))


def test_use_cache_false_uses_no_cache(codebooks):
    model = tiny_model("llama")
    stock = greedy(model, 10, input_ids=tiny_inputs(1, 30))
    output = greedy(model, 10, input_ids=tiny_inputs(1, 30), use_cache=False, **with_vecinfer(codebooks(model), SHORT))
    assert torch.equal(stock, output)


def test_repeated_calls_leave_the_users_objects_alone(codebooks):
    model = tiny_model("llama")
    cache_config = {"backend": "vecinfer", "codebook": codebooks(model), **SHORT}
    generation = GenerationConfig(
        cache_config=copy.deepcopy(cache_config), pad_token_id=0, max_new_tokens=10, do_sample=False
    )
    written, dictionary = generation.to_json_string(), copy.deepcopy(cache_config)
    models_own = model.generation_config.to_json_string()
    results = [model.generate(tiny_inputs(1, 30), generation_config=generation) for _ in range(3)]
    results += [greedy(model, 10, input_ids=tiny_inputs(1, 30), cache_config=dictionary) for _ in range(3)]
    assert all(torch.equal(results[0], each) for each in results)
    assert generation.to_json_string() == written
    assert dictionary == cache_config
    assert model.generation_config.to_json_string() == models_own


def test_a_saved_model_lives_without_this_package(codebooks, tmp_path):
    model = tiny_model("llama")
    stock = greedy(model, 10, input_ids=tiny_inputs(1, 30))[0].tolist()
    plain, directory = tmp_path / "plain", codebooks(model)
    model.save_pretrained(plain)
    enable(model, VecInferConfig(codebook=directory, **SHORT)).save_pretrained(tmp_path / "enabled")
    loaded = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=VecInferConfig(codebook=directory, **SHORT), dtype=torch.float32
    )
    loaded.save_pretrained(tmp_path / "quantization")
    config = json.loads((tmp_path / "quantization" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "vecinfer"
    for name in ("enabled", "quantization"):
        saved = json.loads((tmp_path / name / "generation_config.json").read_text())
        assert saved["cache_config"]["backend"] == "vecinfer"
        assert saved.get("cache_implementation") is None
    script = f"""
import sys
sys.modules["vecinfer_hf"] = None
import torch
from transformers import AutoModelForCausalLM
for name in ("enabled", "quantization"):
    model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r} + "/" + name, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    ids = torch.tensor([{tiny_inputs(1, 30)[0].tolist()}])
    print(model.generate(ids, max_new_tokens=10, do_sample=False)[0].tolist())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [stock, stock]
