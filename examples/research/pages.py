# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m examples.research.pages`: perplexity under the page rule beside the contiguous cache, by page size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching.requests import RequestState

from vecinfer_hf import Codebook, enabled
from vecinfer_hf.calibration.text import load_text
from vecinfer_hf.cli.app import run
from vecinfer_hf.cli.bench import numbers
from vecinfer_hf.cli.console import print_json, print_table
from vecinfer_hf.cli.loading import load_model
from vecinfer_hf.cli.options import AsJson, Device, Dtype
from vecinfer_hf.evaluation import evaluate_perplexity, text_windows


app = typer.Typer(name="pages", pretty_exceptions_enable=False)


@torch.inference_mode()
def page_nll(model: PreTrainedModel, windows: torch.Tensor, codebook: Codebook, page_tokens: int) -> float:
    """Return the mean negative log-likelihood of windows int64 `[n, T]`, each read in one call of continuous batching.

    Under the page rule a token sees what it would see if it were generated, so one call measures decoding.
    """
    length = windows.shape[1]
    config = ContinuousBatchingConfig(
        page_size=page_tokens,
        num_blocks=length // page_tokens + 8,
        max_batch_tokens=length,
        max_requests_per_batch=1,
        allow_block_sharing=False,
    )
    total = 0.0
    with enabled(model, codebook):
        manager = model.init_continuous_batching(GenerationConfig(eos_token_id=-1, max_new_tokens=1), config)
        cache = manager._create_batch_processor().cache
        for number, window in enumerate(windows):
            name = f"window {number}"
            if not cache.can_store_request_tokens(RequestState(name, window.tolist()), length):
                raise MemoryError(f"{length} tokens have no room in {cache.num_blocks} pages of {page_tokens}.")
            cache.fill_block_table(name, 0, length, None)
            ids = window.unsqueeze(0).to(model.device)
            places = torch.arange(length, device=model.device).unsqueeze(0)
            logits = model(ids, position_ids=places, cache=cache, use_cache=False).logits[0, :-1].float()
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()
            cache.free_blocks(name)
    return total / len(windows)


@app.command()
def pages(
    model: Annotated[str, typer.Argument(help="Hub id or directory of the model.")],
    codebook: Annotated[str, typer.Option("--codebook", "-c", help="Codebook.")],
    text: Annotated[Path, typer.Option(help="Text file.")] = Path("models/texts/wiki.txt"),
    page_sizes: Annotated[str, typer.Option(help="Tokens of a page, separated by commas.")] = "64,128,256",
    window_length: Annotated[int, typer.Option(min=2, help="Tokens of a window.")] = 2048,
    max_windows: Annotated[int, typer.Option(min=1, help="Windows.")] = 2,
    dtype: Dtype = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Print the perplexity ratio to the default cache: the contiguous cache fed 16 tokens at a time, and pages."""
    loaded, tokenizer = load_model(model, dtype, device)
    windows = text_windows(tokenizer, load_text(str(text)), window_length, max_windows)
    made = Codebook.from_pretrained(codebook)
    contiguous = evaluate_perplexity(loaded, windows, made, batch_size=min(2, len(windows)))
    base = torch.tensor(contiguous.perplexity_stock).log().item()
    rows = [{"cache": "contiguous, window 128", "ratio": contiguous.perplexity_ratio}]
    for size in numbers(page_sizes):
        nll = page_nll(loaded, windows, made, size)
        rows.append({"cache": f"pages of {size}", "ratio": float(torch.tensor(nll - base).exp())})
    if as_json:
        print_json({"model": model, "codebook": codebook, "windows": len(windows), "rows": rows})
    else:
        title = f"{codebook}, {len(windows)} windows of {window_length} tokens of {text.name}"
        print_table(title, ("cache", "perplexity ratio"), [(row["cache"], f"{row['ratio']:.4f}") for row in rows])


if __name__ == "__main__":
    run(app)
