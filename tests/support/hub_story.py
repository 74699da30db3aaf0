# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What the people of test_hub_story.py do, each on a machine (a process with caches) of their own."""

import re

from hub_tasks import fingerprint
from huggingface_hub import ModelCard
from tiny_models import tiny_inputs, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from vecinfer_hf import CalibrationConfig, VecInferConfig
from vecinfer_hf.calibration import calibrate
from vecinfer_hf.integration.compat import returned_cache


OPTIONS = {"residual_length": 16, "sink_length": 4}
"""A short window, so that the 60 tokens of a story are mostly codes."""


def publish_model(repo_id):
    """Put the tiny llama and a tokenizer for it on the Hub."""
    words = {f"w{index}": index for index in range(97)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w1", pad_token="w0").push_to_hub(repo_id)
    tiny_model().push_to_hub(repo_id)


def calibrate_and_push(model_id, repo_id, seed=0, **options):
    """Calibrate the model of the Hub on random text and push its codebook."""
    model = AutoModelForCausalLM.from_pretrained(model_id)
    config = CalibrationConfig(num_iterations=2, seed=seed, sequence_length=256, **OPTIONS)
    codebook = calibrate(model, tiny_inputs(8, 256, seed=seed), config=config, progress=False)
    commit = codebook.push_to_hub(repo_id, **options)
    return {"commit": commit.oid, "pr": commit.pr_revision, "fingerprint": fingerprint(codebook)}


def tokens_of(model):
    """40 greedy tokens after a prompt of 20, and whether codes were used."""
    prompt = tiny_inputs(1, 20, seed=5)
    out = model.generate(prompt, max_new_tokens=40, do_sample=False, return_dict_in_generate=True)
    coded = getattr(returned_cache(out), "quantized_layers", [])
    return {
        "tokens": out.sequences[0, 20:].tolist(),
        "layers": len(coded),
        "cache": type(returned_cache(out)).__name__,
    }


def load_and_generate(model_id, repo_id=None, save_to=None, **options):
    """Load a model, with a codebook if one is named, generate, and save the model if asked to."""
    config = VecInferConfig(codebook=repo_id, **OPTIONS, **options) if repo_id else None
    more = {} if config is None else {"quantization_config": config}
    model = AutoModelForCausalLM.from_pretrained(model_id, **more)
    found = tokens_of(model)
    if save_to:
        model.save_pretrained(save_to)
    carried = model.generation_config.cache_config
    return {**found, **{name: (carried or {}).get(name) for name in ("codebook", "revision")}}


def run_the_card(repo_id):
    """Run the python example of a card as somebody would who copies it."""
    [code] = re.findall(r"```python\n(.*?)```", ModelCard.load(repo_id).text, re.DOTALL)
    exec(code, {"__name__": "__main__"})  # what a card shows is ours: see test_model_card.py
    return {}
