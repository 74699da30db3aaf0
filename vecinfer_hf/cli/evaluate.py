# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer evaluate`: perplexity through a codebook's cache beside the stock cache."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import torch
import typer
from transformers import PreTrainedModel

from ..cache.online_codebook import ONLINE
from ..calibration.text import EXCERPTS, load_text
from ..errors import ConfigError
from ..evaluation import PerplexityResult, evaluate_perplexity, text_windows
from ..evaluation.perplexity import MAX_CHUNK
from .console import counted, print_json, print_table, progress_bar, size
from .loading import check_before_loading, check_codebook, load_tokenizer, load_weights, machine
from .options import (
    AsJson,
    CodebookName,
    Device,
    Dtype,
    KeyBits,
    Model,
    OpsBackend,
    ResidualLength,
    Revision,
    SinkChoice,
    SinkLength,
    Subfolder,
    Trust,
    ValueBits,
    cache_options,
    text_value,
)


Text = Annotated[
    str,
    typer.Option(
        help=f"Text file, - for standard input, or an excerpt that comes along ({', '.join(EXCERPTS)}); not the text "
        "calibrated on.",
        parser=text_value,
        metavar="TEXT",
    ),
]
WindowLength = Annotated[int, typer.Option(min=2, help="Tokens per window of text.")]
MaxWindows = Annotated[int | None, typer.Option(min=1, help="Windows, spread over the text; default all.")]
ChunkLength = Annotated[int, typer.Option(min=1, max=MAX_CHUNK, help="Tokens per call.")]
PromptLength = Annotated[
    int | None,
    typer.Option(min=0, help="First tokens in one call, not counted; default 0, half a window for 'online'."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Windows per call.")]


def evaluate(
    model: Model,
    text: Text,
    codebook: CodebookName = "auto",
    window_length: WindowLength = 2048,
    max_windows: MaxWindows = 8,
    chunk_length: ChunkLength = MAX_CHUNK,
    prompt_length: PromptLength = None,
    batch_size: BatchSize = 1,
    revision: Revision = None,
    subfolder: Subfolder = None,
    trust: Trust = None,
    key_bits: KeyBits = None,
    value_bits: ValueBits = None,
    residual_length: ResidualLength = None,
    sink_length: SinkLength = None,
    sink_choice: SinkChoice = None,
    ops_backend: OpsBackend = "auto",
    dtype: Dtype = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure perplexity, KL divergence and memory of a cache with codes beside the default cache."""
    options = cache_options(
        codebook,
        revision=revision,
        subfolder=subfolder,
        trust=trust,
        key_bits=key_bits,
        value_bits=value_bits,
        residual_length=residual_length,
        sink_length=sink_length,
        sink_choice=sink_choice,
        ops_backend=ops_backend,
    )
    check_prompt_length(codebook, window_length, prompt_length)
    check_codebook(codebook, revision, subfolder)
    content = load_text(text)
    check_before_loading(model, codebook, options, dtype, device)
    windows = text_windows(load_tokenizer(model), content, window_length, max_windows)
    loaded = load_weights(model, dtype, device)
    result = measure(loaded, windows, codebook, chunk_length, prompt_length, batch_size, **options)
    if as_json:
        print_json(report(loaded, model, codebook, text, content, result))
    else:
        print_perplexity(f"{model} on {text}", result)


def check_prompt_length(codebook: str, window_length: int, prompt_length: int | None) -> None:
    """Raise ConfigError for a prompt that leaves nothing to predict, or none for an online codebook."""
    if prompt_length is not None and prompt_length > window_length - 2:
        raise ConfigError(
            f"--prompt-length is {prompt_length}, but windows of {window_length} tokens have nothing to predict after "
            f"more than {window_length - 2}; give a shorter prompt or longer windows."
        )
    if codebook == ONLINE and (prompt_length == 0 or (prompt_length is None and window_length < 4)):
        raise ConfigError(
            "--codebook online is fitted to a prompt, and there is none; give --prompt-length, half of "
            "--window-length for example."
        )


def measure(
    model: PreTrainedModel,
    windows: torch.Tensor,
    codebook: str,
    chunk_length: int,
    prompt_length: int | None,
    batch_size: int,
    **options,
) -> PerplexityResult:
    """Measure windows of text, int64 `[windows, tokens]`, under a progress bar; see `evaluate_perplexity`."""
    if prompt_length is None:
        prompt_length = windows.shape[1] // 2 if codebook == ONLINE else 0
    with progress_bar("Perplexity", windows.shape[0] * (windows.shape[1] - prompt_length - 1)) as advance:
        return evaluate_perplexity(
            model,
            windows,
            codebook,
            chunk_length=chunk_length,
            prompt_length=prompt_length,
            batch_size=batch_size,
            progress=advance,
            **options,
        )


def report(
    loaded: PreTrainedModel, model: str, codebook: str, text: str, content: str, result: PerplexityResult
) -> dict[str, Any]:
    """Return the figures with what they were measured on, as plain JSON values."""
    return {
        "model": model,
        "codebook": codebook,
        "text": text,
        "text_sha256": hashlib.sha256(content.encode()).hexdigest(),
        **result.to_dict(),
        "machine": machine(loaded.device),
    }


def print_perplexity(measured: str, result: PerplexityResult) -> None:
    """Print what was measured, on how much text, and a table of two columns, stock and vecinfer."""
    share = result.cache_nbytes / result.cache_nbytes_stock
    print_table(
        f"{measured}: {counted(result.windows, 'window')} of {result.window_length} tokens",
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
