# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer demo`: a real model calibrated and generating with a 2-bit cache next to the stock cache."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from transformers import PreTrainedTokenizerBase, TextStreamer

from ..assets import SMOLLM2_ID, load_text
from ..calibration import calibrate
from ..calibration_config import CalibrationConfig
from ..evaluation import evaluate_perplexity, greedy_agreement, text_windows
from .calibrate import bits as parse_bits
from .console import errors, output, print_json, progress_bar, size
from .evaluate_tables import print_perplexity
from .generate import prompt_ids
from .loading import DEMO_MODEL, AsJson, Device, load_model


CALIBRATION_TEXT = "persuasion-excerpt"
HELD_OUT_TEXT = "northanger-excerpt"
# Long enough that most of it has left the exact window when the answer is written.
PROMPT_CHARACTERS = 2500
QUESTION = "Summarize this passage in your own words."


def make_prompt() -> str:
    """Return the demo's prompt: the opening of Northanger Abbey and a question about it."""
    passage = load_text(HELD_OUT_TEXT)[:PROMPT_CHARACTERS]
    return f"{passage.rpartition('.')[0]}.\n\n{QUESTION}"


def demo(
    bits: Annotated[str, typer.Option(help="Bits per key and value element: 4, 2, 1.5, 1.25 or 1.")] = "2",
    text: Annotated[str, typer.Option(help="Held-out text: a file or a known text.")] = HELD_OUT_TEXT,
    num_tokens: Annotated[int, typer.Option(min=1, help="Tokens to calibrate on.")] = 16384,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 60,
    window_length: Annotated[int, typer.Option(min=2, help="Tokens per window of held-out text.")] = 1024,
    max_windows: Annotated[int, typer.Option(min=1, help="Windows of held-out text.")] = 2,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Calibrate a small real model, generate with a 2-bit cache next to the stock one, and compare perplexity."""
    started = time.perf_counter()
    width = parse_bits(bits)
    # 4096 tokens of 64 channels have 65,536 sub-vectors per head, 256 for each centroid: enough for a demo.
    config = CalibrationConfig(
        key_bits=width,
        value_bits=width,
        num_tokens=num_tokens,
        num_samples=4096,
        num_iterations=10,
        recipe="query",  # forward passes only: a demo is not the place to wait for gradients
    )
    held_out = load_text(text)
    errors.print(f"Model: {SMOLLM2_ID}. It is converted once and kept.", highlight=False)
    model, tokenizer = load_model(DEMO_MODEL, None, device)
    windows = text_windows(tokenizer, held_out, window_length, max_windows)
    codebook = calibrate(model, tokenizer, {CALIBRATION_TEXT: load_text(CALIBRATION_TEXT)}, config)

    prompt = make_prompt()
    ids = prompt_ids(tokenizer, prompt, chat=True)
    streamers = (None, None)
    if not as_json:
        print_text("Prompt", f"{prompt[:200]} [...]\n\n{QUESTION}")
        titles = "Stock cache", f"VecInfer cache, {codebook.bits_per_element:g} bits per element"
        streamers = tuple(TitledStreamer(tokenizer, title) for title in titles)
    generated = greedy_agreement(model, ids, codebook, max_new_tokens, streamers)
    with progress_bar("Perplexity", windows.shape[0] * (windows.shape[1] - 1)) as advance:
        result = evaluate_perplexity(model, windows, codebook, batch_size=len(windows), progress=advance)
    seconds = time.perf_counter() - started

    if as_json:
        answers = {
            f"text_{name}": tokenizer.decode(tokens, skip_special_tokens=True)
            for name, tokens in (("stock", generated.tokens_stock), ("vecinfer", generated.tokens_vecinfer))
        }
        print_json(
            {
                "model": SMOLLM2_ID,
                "generation": {"prompt": prompt, **generated.to_dict(), **answers},
                "perplexity": {"text": text, **result.to_dict()},
                "seconds": seconds,
            }
        )
        return
    output.print()
    print_perplexity(f"Held-out text {text}", result)
    output.print(
        f"The continuations share their first {generated.agreement_length} tokens. Caches after "
        f"{generated.prompt_tokens} tokens of prompt and {max_new_tokens} of answer: stock "
        f"{size(generated.cache_nbytes_stock)}, vecinfer {size(generated.cache_nbytes)} (codebook, exact window and "
        f"sinks included). {seconds:.0f} seconds in all.",
        highlight=False,
    )


def print_text(title: str, text: str) -> None:
    """Print text under a title, as it is."""
    output.rule(title, align="left")
    output.print(text, markup=False, highlight=False)


class TitledStreamer(TextStreamer):
    """Streams generated text to standard output under a title."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, title: str):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.title: str | None = title

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print the title before the first text."""
        if self.title is not None:
            output.rule(self.title, align="left")
            self.title = None
        super().on_finalized_text(text, stream_end)
