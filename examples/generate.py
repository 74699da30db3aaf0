# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.10"
# dependencies = ["vecinfer-hf"]
# ///
"""Generate with a vector-quantized cache, in the three ways transformers knows, and compare its size.

python examples/generate.py HuggingFaceTB/SmolLM2-135M-Instruct --codebook path-or-hub-id --prompt "Long ago"
"""

import argparse

from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer

import vecinfer_hf  # registers "vecinfer" with transformers


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="model on the Hub, or its directory")
parser.add_argument("--codebook", required=True, help="codebook on the Hub, its directory, or a shipped name")
parser.add_argument("--prompt", default="The history of the printing press began")
parser.add_argument("--max-new-tokens", type=int, default=100)
arguments = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(arguments.model)
model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="auto")
inputs = tokenizer(arguments.prompt, return_tensors="pt").to(model.device)
options = {"max_new_tokens": arguments.max_new_tokens, "do_sample": False}

# 1. For one call: the cache is named like transformers' own.
result = model.generate(
    **inputs,
    **options,
    cache_implementation="vecinfer",
    cache_config={"codebook": arguments.codebook},
    streamer=TextStreamer(tokenizer, skip_prompt=True),
)

# 2. For every later call, pipelines and servers included; `disable` puts everything back.
vecinfer_hf.enable(model, arguments.codebook)
again = model.generate(**inputs, **options)
vecinfer_hf.disable(model)

# 3. By hand, to keep the cache for the next turn of a conversation. transformers calls the argument cache= from 5.24
# on, and still takes the older name.
cache = vecinfer_hf.VecInferCache(model, arguments.codebook)
by_hand = model.generate(**inputs, **options, past_key_values=cache)
print(f"{cache.get_seq_length()} tokens in {cache.nbytes:,} bytes; the stock cache takes {cache.stock_nbytes():,}")

print("The three ways agree:", result.tolist() == again.tolist() == by_hand.tolist())
