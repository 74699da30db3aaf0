# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.10"
# dependencies = ["vecinfer-hf"]
# ///
"""Calibrate a codebook on your own text, save it, and measure it on text it has not seen.

    python examples/calibrate.py HuggingFaceTB/SmolLM2-135M-Instruct --text book.txt --output my-codebook

The last tenth of the text is held out for the measurement. Text of another kind is the harder and the better test.
"""

import argparse
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from vecinfer_hf import CalibrationConfig, Codebook, calibrate
from vecinfer_hf.evaluation import evaluate_perplexity, text_windows


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="model on the Hub, or its directory")
parser.add_argument("--text", required=True, type=Path, help="plain text")
parser.add_argument("--output", required=True, type=Path, help="directory for the codebook")
parser.add_argument("--bits", type=float, default=2, help="bits per element: 4, 2, 1.5, 1.25 or 1")
parser.add_argument("--tokens", type=int, default=65536, help="tokens of the text to read")
parser.add_argument("--sequence-length", type=int, default=2048, help="tokens per window; cover the positions you use")
arguments = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(arguments.model)
model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="auto")
text = arguments.text.read_text(encoding="utf-8")
border = len(text) * 9 // 10

config = CalibrationConfig(
    key_bits=arguments.bits,
    value_bits=arguments.bits,
    num_tokens=arguments.tokens,
    sequence_length=arguments.sequence_length,
)
codebook = calibrate(model, tokenizer, {arguments.text.name: text[:border]}, config)
codebook.save_pretrained(arguments.output)
print(f"Saved {Codebook.from_pretrained(arguments.output)} to {arguments.output}")

windows = text_windows(tokenizer, text[border:], min(512, arguments.sequence_length), max_windows=1)
result = evaluate_perplexity(model, windows, codebook)
print(f"Held out: perplexity {result.perplexity_stock:.2f} stock, {result.perplexity_vecinfer:.2f} with the codebook")
print(f"{result.bits_per_element:g} bits per element, {result.bytes_per_token:,.0f} bytes per token")
