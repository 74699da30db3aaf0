# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.10"
# dependencies = ["vecinfer-hf"]
# ///
"""Calibrate a codebook, share it on the Hub, and use it by name, as anybody else would.

    hf auth login
    python examples/share_codebook.py HuggingFaceTB/SmolLM2-135M-Instruct me/SmolLM2-vecinfer --text book.txt

With --create-pr it is offered to somebody else's repository instead, and can be used from refs/pr/<number> at once.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vecinfer_hf import CalibrationConfig, Codebook, VecInferConfig, calibrate


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="model on the Hub, or its directory")
parser.add_argument("repository", help="where the codebook goes, owner/name")
parser.add_argument("--text", required=True, type=Path, help="text to calibrate on")
parser.add_argument("--bits", type=float, default=2, help="bits per element: 4, 2, 1.5, 1.25 or 1")
parser.add_argument("--tokens", type=int, default=65536, help="tokens of the text to read")
parser.add_argument("--sequence-length", type=int, default=2048, help="tokens per window")
parser.add_argument("--public", action="store_true", help="let everybody see a new repository")
parser.add_argument("--create-pr", action="store_true", help="offer it as a pull request")
arguments = parser.parse_args()

# 1. Make a codebook: the model reads the text, its keys and values are clustered.
tokenizer = AutoTokenizer.from_pretrained(arguments.model)
model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="auto")
config = CalibrationConfig(
    key_bits=arguments.bits,
    value_bits=arguments.bits,
    num_tokens=arguments.tokens,
    sequence_length=arguments.sequence_length,
)
texts = {arguments.text.name: arguments.text.read_text(encoding="utf-8")}
codebook = calibrate(model, tokenizer, texts, config)

# 2. Share it: one commit with the codebook and a card that says how it was made and how to use it. Several codebooks
#    can live in one repository, each in a directory of its own.
folder = f"{arguments.bits:g}bit"
commit = codebook.push_to_hub(
    arguments.repository,
    subfolder=folder,
    private=None if arguments.create_pr else not arguments.public,
    create_pr=arguments.create_pr,
)
print("pushed:", commit.pr_url or commit.commit_url)

# 3. Use it by name. A saved model remembers the commit, so it always gets this codebook again.
revision = commit.pr_revision or commit.oid
assert Codebook.from_pretrained(arguments.repository, subfolder=folder, revision=revision).nbytes == codebook.nbytes
shared = VecInferConfig(codebook=arguments.repository, subfolder=folder, revision=revision)
model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="auto", quantization_config=shared)
inputs = tokenizer(texts[arguments.text.name][:2000], return_tensors="pt")
with torch.no_grad():
    tokens = model.generate(**inputs, max_new_tokens=40, do_sample=False)
print("generated:", tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :]))
print("cache_config:", model.generation_config.cache_config)
