# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.10"
# dependencies = ["vecinfer-hf"]
# ///
"""Generate on several GPUs (or CPU processes) with transformers' tensor parallelism and a vector-quantized cache.

Each process holds its share of the key/value heads: their codes, window and codebook. Without --codebook one is made
from a text first, by all processes together, and saved for later runs.

torchrun --nproc-per-node 2 examples/tensor_parallel.py MODEL --codebook path-or-hub-id --prompt "Long ago"
torchrun --nproc-per-node 2 examples/tensor_parallel.py MODEL --text my-text.txt --output my-codebook
"""

import argparse

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.distributed.configuration_utils import DistributedConfig

import vecinfer_hf


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="model on the Hub, or its directory")
parser.add_argument("--codebook", help="codebook on the Hub, its directory, or a shipped name")
parser.add_argument("--text", help="without --codebook: file to calibrate on")
parser.add_argument("--output", default="codebook", help="without --codebook: where to save what was made")
parser.add_argument("--num-tokens", type=int, default=32768, help="without --codebook: tokens of the text to read")
parser.add_argument("--prompt", default="The history of the printing press began")
parser.add_argument("--max-new-tokens", type=int, default=50)
arguments = parser.parse_args()
if arguments.codebook is None and arguments.text is None:
    parser.error("give --codebook, or --text to make one from")

tokenizer = AutoTokenizer.from_pretrained(arguments.model)
# Under torchrun: this process loads its part of the weights, and every process runs all that follows.
model = AutoModelForCausalLM.from_pretrained(
    arguments.model, distributed_config=DistributedConfig(tp_plan="auto"), dtype="auto"
)
first = dist.get_rank() == 0
if arguments.codebook is None:
    with open(arguments.text, encoding="utf-8") as file:
        text = file.read()
    config = vecinfer_hf.CalibrationConfig(num_tokens=arguments.num_tokens)
    codebook = vecinfer_hf.calibrate(model, tokenizer, text, config)  # of all heads, on every process
    if first:
        codebook.save_pretrained(arguments.output)
else:
    codebook = arguments.codebook

# A cache by hand, to print its size; `vecinfer_hf.enable(model, codebook)` makes one in every later generate.
cache = vecinfer_hf.VecInferCache(model, codebook)
inputs = tokenizer(arguments.prompt, return_tensors="pt").to(model.device)
output = model.generate(**inputs, max_new_tokens=arguments.max_new_tokens, do_sample=False, past_key_values=cache)
sizes = torch.tensor([cache.nbytes], device=model.device)
dist.all_reduce(sizes)
if first:
    print(tokenizer.decode(output[0]))
    print(f"Cache of this process: {cache.nbytes:,} bytes; of all {dist.get_world_size()}: {int(sizes):,}")
dist.destroy_process_group()
