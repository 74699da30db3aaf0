# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer evaluate`: perplexity with a vector-quantized cache next to the stock cache, peers, and retrieval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..assets import load_text
from ..calibration.simulate import LayerSimulator
from ..codebook import Codebook
from ..evaluation import (
    PerplexityResult,
    compare,
    evaluate_perplexity,
    greedy_agreement,
    needle_hits,
    needle_samples,
    text_windows,
)
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
    peers: Annotated[
        bool, typer.Option("--peers", help="Also measure other quantizers on the same text, by simulation.")
    ] = False,
    needles: Annotated[int, typer.Option(min=0, help="Also ask for this many numbers hidden in long texts.")] = 0,
    needle_text: Annotated[str, typer.Option(help="Text to hide them in.")] = "austen/persuasion",
    needle_length: Annotated[int, typer.Option(min=200, help="Tokens of each such text.")] = 2048,
    needle_keys: Annotated[int, typer.Option(min=1, help="Numbers hidden in each, one of them asked for.")] = 4,
    output_file: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the JSON here.")] = None,
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
    if peers or needles:
        own = Codebook.from_pretrained(codebook, **({"revision": revision} if revision else {}))
    if peers:
        with progress_bar("Peers", 5 * windows.numel()) as advance:
            report["peers"] = compare(loaded, windows, own, batch_size=batch_size, progress=advance)
    if needles:
        samples = needle_samples(tokenizer, load_text(needle_text), needle_length, needle_keys, needles)
        report["retrieval"] = _retrieval(loaded, samples, own)
    if output_file is not None:
        output_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
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
    if peers:
        print_table(
            "Peers on the same text, one pass, same window and sinks",
            ("cache", "true bits", "perplexity ratio", "KL, nats", "same next token"),
            [
                (
                    row["name"],
                    f"{row['bits']:.4g}",
                    f"{row['perplexity_ratio']:.4f}",
                    f"{row['kl_divergence']:.4f}",
                    f"{100 * row['top1_agreement']:.1f} %",
                )
                for row in report["peers"]
            ],
        )
    if needles:
        found = report["retrieval"]
        print_table(
            f"Numbers found, {found['samples']} texts of {needle_length} tokens with {needle_keys} numbers each",
            ("", "stock cache", "vecinfer"),
            [("found", str(sum(found["stock"])), str(sum(found["vecinfer"])))],
        )


def _retrieval(model, samples, codebook: Codebook) -> dict[str, Any]:
    """Which samples each cache answers."""
    layers = {index: LayerSimulator(layer).to(model.device) for index, layer in codebook.layers.items()}
    options = {"sink_length": codebook.config.sink_length, "residual_length": codebook.config.residual_length}
    with progress_bar("Retrieval", 2 * len(samples)) as advance:
        return {
            "samples": len(samples),
            "stock": needle_hits(model, samples, progress=advance),
            "vecinfer": needle_hits(model, samples, layers, **options, progress=advance),
        }
