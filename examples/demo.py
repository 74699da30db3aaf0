# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.10"
# dependencies = ["vecinfer-hf"]
# ///
"""Calibrate a small model, generate with a 2-bit cache next to the stock cache, and compare perplexity.

    make demo                                                      # with SmolLM2-135M-Instruct, in a checkout
    python examples/demo.py HuggingFaceTB/SmolLM2-135M-Instruct    # with a model of the Hub

Calibration text and held-out text are the two excerpts that come with the package.
"""

import argparse
import time

from transformers import TextStreamer

from vecinfer_hf import CalibrationConfig, calibrate
from vecinfer_hf.calibration.text import EXCERPTS, load_text
from vecinfer_hf.cli.console import errors, output, progress_bar, size
from vecinfer_hf.cli.evaluate import print_perplexity
from vecinfer_hf.cli.loading import load_model
from vecinfer_hf.cli.prompts import prompt_ids
from vecinfer_hf.evaluation import evaluate_perplexity, greedy_agreement, text_windows


CALIBRATION_TEXT, HELD_OUT_TEXT = EXCERPTS
QUESTION = "Summarize this passage in your own words."


class TitledStreamer(TextStreamer):
    """Streams generated text to standard output under a title."""

    def __init__(self, tokenizer, title):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.title = title

    def on_finalized_text(self, text, stream_end=False):
        if self.title is not None:
            output.rule(self.title, align="left")
            self.title = None
        super().on_finalized_text(text, stream_end)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="model on the Hub, or its directory")
parser.add_argument("--bits", type=float, default=2, help="bits per element: 4, 2, 1.5, 1.25 or 1")
parser.add_argument("--num-tokens", type=int, default=16384, help="tokens to calibrate on")
parser.add_argument("--max-new-tokens", type=int, default=60, help="tokens to generate")
parser.add_argument("--window-length", type=int, default=1024, help="tokens per window of held-out text")
parser.add_argument("--max-windows", type=int, default=2, help="windows of held-out text")
arguments = parser.parse_args()

started = time.perf_counter()
errors.print(f"Model: {arguments.model}", highlight=False)
model, tokenizer = load_model(arguments.model)
held_out = load_text(HELD_OUT_TEXT)
windows = text_windows(tokenizer, held_out, arguments.window_length, arguments.max_windows)

# 1. Calibrate, with forward passes only, which is quick. 4096 tokens of 64 channels have 65,536 sub-vectors per head,
#    256 for each centroid.
config = CalibrationConfig(
    key_bits=arguments.bits,
    value_bits=arguments.bits,
    num_tokens=arguments.num_tokens,
    num_samples=4096,
    num_iterations=10,
    recipe="query",
)
codebook = calibrate(model, tokenizer, {CALIBRATION_TEXT: load_text(CALIBRATION_TEXT)}, config)

# 2. Generate with both caches. The passage is so long that most of it has left the exact window at the answer.
passage = held_out[:2500].rpartition(".")[0]
prompt = f"{passage}.\n\n{QUESTION}"
output.rule("Prompt", align="left")
output.print(f"{prompt[:200]} [...]\n\n{QUESTION}", markup=False, highlight=False)
titles = "Stock cache", f"VecInfer cache, {codebook.bits_per_element:g} bits per element"
streamers = tuple(TitledStreamer(tokenizer, title) for title in titles)
ids = prompt_ids(tokenizer, prompt, chat=tokenizer.chat_template is not None)
generated = greedy_agreement(model, ids, codebook, arguments.max_new_tokens, streamers)

# 3. Compare perplexity on text that calibration has not seen.
with progress_bar("Perplexity", windows.shape[0] * (windows.shape[1] - 1)) as advance:
    result = evaluate_perplexity(model, windows, codebook, batch_size=len(windows), progress=advance)
output.print()
print_perplexity(f"Held-out text {HELD_OUT_TEXT}", result)
output.print(
    f"The continuations share their first {generated.agreement_length} tokens. Caches after "
    f"{generated.prompt_tokens} tokens of prompt and {arguments.max_new_tokens} of answer: stock "
    f"{size(generated.cache_nbytes_stock)}, vecinfer {size(generated.cache_nbytes)} (codebook, exact window and "
    f"sinks included). {time.perf_counter() - started:.0f} seconds in all.",
    highlight=False,
)
