# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer evaluate`: perplexity with a vector-quantized cache next to the stock cache."""

from __future__ import annotations

from typing import Annotated

import typer

from ..assets import load_text
from ..evaluation import PerplexityResult, evaluate_perplexity, greedy_agreement, text_windows
from .console import print_json, print_table, progress_bar, size
from .loading import (
    AsJson,
    CodebookName,
    Device,
    Dtype,
    Model,
    OpsBackend,
    ResidualLength,
    Revision,
    SinkLength,
    cache_options,
    load_model,
)


def print_perplexity(title: str, result: PerplexityResult) -> None:
    """Print a result as a table of two columns, stock and vecinfer."""
    share = result.cache_nbytes / result.cache_nbytes_stock
    print_table(
        title,
        ("", "stock cache", "vecinfer"),
        [
            ("perplexity", f"{result.perplexity_stock:.3f}", f"{result.perplexity_vecinfer:.3f}"),
            ("ratio", "1", f"{result.perplexity_ratio:.4f}"),
            ("KL divergence, nats per token", "0", f"{result.kl_divergence:.4f}"),
            ("same next token", "100 %", f"{100 * result.top1_agreement:.1f} %"),
            (
                "bits per element",
                f"{8 * result.bytes_per_token_stock / result.elements_per_token:g}",
                f"{result.bits_per_element:g}",
            ),
            ("bytes per token", f"{result.bytes_per_token_stock:,.0f}", f"{result.bytes_per_token:,.0f}"),
            (
                f"cache of {result.batch_size} x {result.window_length - 1} tokens",
                size(result.cache_nbytes_stock),
                f"{size(result.cache_nbytes)} ({100 * share:.1f} %)",
            ),
            ("seconds", f"{result.seconds_stock:.1f}", f"{result.seconds_vecinfer:.1f}"),
        ],
    )


def evaluate(
    model: Model,
    codebook: CodebookName,
    text: Annotated[str, typer.Option(help="Text file or a known text; not the one calibrated on.")] = "wiki",
    window_length: Annotated[int, typer.Option(min=2, help="Tokens per window of text.")] = 2048,
    max_windows: Annotated[int | None, typer.Option(min=1, help="Windows, spread over the text; default all.")] = 8,
    chunk_length: Annotated[int, typer.Option(help="Tokens per call, 1 to 16.")] = 16,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows per call.")] = 1,
    generation_tokens: Annotated[
        int, typer.Option(min=0, help="Also compare greedy continuations of this many tokens.")
    ] = 0,
    revision: Revision = None,
    residual_length: ResidualLength = None,
    sink_length: SinkLength = None,
    ops_backend: OpsBackend = "auto",
    dtype: Dtype = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure perplexity with a codebook's cache and with the stock cache, through the real caches."""
    content = load_text(text)
    loaded, tokenizer = load_model(model, dtype, device)
    options = cache_options(revision, residual_length, sink_length, ops_backend)
    windows = text_windows(tokenizer, content, window_length, max_windows)
    with progress_bar("Perplexity", windows.shape[0] * (windows.shape[1] - 1)) as advance:
        result = evaluate_perplexity(
            loaded, windows, codebook, chunk_length=chunk_length, batch_size=batch_size, progress=advance, **options
        )
    report = {"model": loaded.config._name_or_path, "codebook": codebook, "text": text, **result.to_dict()}
    if generation_tokens:
        with progress_bar("Generation", 1) as advance:
            agreement = greedy_agreement(loaded, windows[:1], codebook, generation_tokens, **options)
            advance(1)
        report["generation"] = agreement.to_dict()
    if as_json:
        print_json(report)
        return
    print_perplexity(f"{report['model']} on {text}: {result.windows} windows of {result.window_length} tokens", result)
    if generation_tokens:
        print_table(
            "Greedy continuation of the first window",
            ("", "tokens"),
            [
                ("generated", str(len(agreement.tokens_vecinfer))),
                ("the same from the start", str(agreement.agreement_length)),
            ],
        )
