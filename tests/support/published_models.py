# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny models under the names that README uses, for a Hub on this machine. Run where the checkout can be imported."""

from huggingface_hub import HfApi
from tiny_models import tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vecinfer_hf.calibration.text import EXCERPTS, load_text
from vecinfer_hf.evaluation.random_models import LLAMA_8B, shape_config


END = "<|endoftext|>"
SHAPES = {
    # What the shipped codebooks must agree with: layers and heads; all else is tiny.
    "HuggingFaceTB/SmolLM2-135M-Instruct": (
        "llama",
        {
            "num_hidden_layers": 30,
            "hidden_size": 72,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
        },
    ),
    "Qwen/Qwen3-0.6B": ("qwen3", {}),
}
CONFIG_ONLY = "meta-llama/Llama-3.1-8B"
"""A name of which commands read no more than the config, which is that of the real shape."""


def publish() -> list[str]:
    """Push the models, their tokenizer and the config; return the names."""
    tokenizer = _tokenizer()
    for name, (family, shape) in SHAPES.items():
        tokenizer.push_to_hub(name)
        tiny_model(family, vocab_size=len(tokenizer), **shape).push_to_hub(name)
    HfApi().create_repo(CONFIG_ONLY)
    shape_config(LLAMA_8B).push_to_hub(CONFIG_ONLY)
    return [*SHAPES, CONFIG_ONLY]


def _tokenizer() -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer of 400 tokens, learned from the excerpts; it can write any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([load_text(name) for name in EXCERPTS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END)
