# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer evaluate`: a codebook's cache next to the stock cache: perplexity, peers, retrieval, generation."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer

from ..assets import load_text
from ..assets.tasks import TASKS, load_task
from ..cache.online_codebook import ONLINE
from ..calibration.special_tokens import separator_ids, with_separators
from ..codebook.codebook import Codebook
from ..config import SINK_CHOICES
from ..evaluation import (
    compare,
    evaluate_perplexity,
    judge_continuations,
    margins,
    needle_hits,
    needle_samples,
    own_method,
    peer_methods,
    plain_layers,
    retrieval_report,
    score_answers,
    stock_method,
    task_report,
    text_windows,
)
from ..evaluation.compare import PEER_BITS
from ..integration.resolve import resolve
from ..model_info import full_attention_layers, text_config
from ..version import __version__
from .console import print_json, progress_bar
from .evaluate_tables import (
    print_continuations,
    print_margins,
    print_peers,
    print_perplexity,
    print_retrieval,
    print_tasks,
)
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


GENERATION_PROMPT = 512
"""Tokens of each prompt of the long texts, the beginnings of windows."""


def evaluate(
    model: Model,
    codebook: CodebookName,
    text: Annotated[str, typer.Option(help="Text file or a known text; not the one calibrated on.")] = "wiki",
    window_length: Annotated[int, typer.Option(min=2, help="Tokens per window of text.")] = 2048,
    max_windows: Annotated[int | None, typer.Option(min=1, help="Windows, spread over the text; default all.")] = 8,
    separators: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the windows with special tokens in their midst.")
    ] = 0,
    chunk_length: Annotated[int, typer.Option(help="Tokens per call, 1 to 16.")] = 16,
    prompt_length: Annotated[
        int | None,
        typer.Option(min=0, help="First tokens in one call, not counted; default 0, half a window for 'online'."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows per call.")] = 1,
    generation_tokens: Annotated[
        int, typer.Option(min=0, help="Also compare greedy texts of this many tokens, read by the stock model.")
    ] = 0,
    generation_prompts: Annotated[int, typer.Option(min=1, help="How many such texts.")] = 1,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also measure other quantizers on the same text, by simulation.")
    ] = False,
    plain: Annotated[
        list[str] | None,
        typer.Option(help="Text to fit plain product quantization on, for --peers: the codebook's; repeatable."),
    ] = None,
    needles: Annotated[int, typer.Option(min=0, help="Also ask for this many numbers hidden in long texts.")] = 0,
    needle_text: Annotated[str, typer.Option(help="Text to hide them in.")] = "austen/persuasion",
    needle_length: Annotated[
        list[int] | None, typer.Option(min=200, help="Tokens of each such text; repeatable; default 2048.")
    ] = None,
    needle_keys: Annotated[int, typer.Option(min=1, help="Numbers hidden in each, one of them asked for.")] = 4,
    needle_questions: Annotated[
        int, typer.Option(min=1, help="Questions about each text, each for another number; they cost little more.")
    ] = 1,
    needle_seed: Annotated[int, typer.Option(min=0, help="Another seed gives other texts and numbers.")] = 0,
    tasks: Annotated[
        list[str] | None, typer.Option(help=f"Also answer few-shot questions, repeatable: {', '.join(TASKS)}.")
    ] = None,
    task_questions: Annotated[int, typer.Option(min=1, help="Questions of each task.")] = 100,
    output_file: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the JSON here.")] = None,
    revision: Revision = None,
    residual_length: ResidualLength = None,
    sink_length: SinkLength = None,
    sink_choice: Annotated[
        str | None, typer.Option(help=f"Which early tokens: {' or '.join(SINK_CHOICES)}; default the codebook's.")
    ] = None,
    ops_backend: OpsBackend = "auto",
    dtype: Dtype = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure a codebook's cache against the stock cache: perplexity through the real caches, and what is asked for.

    Peers and retrieval are simulated in one pass, which a test holds equal to the real cache.
    """
    online = codebook == ONLINE
    if online and (peers or needles or tasks):
        raise ValueError(
            'codebook "online" is fitted inside a real cache, but --peers, --needles and --tasks simulate one; leave '
            "them out."
        )
    if plain and not peers:
        raise ValueError("--plain adds a row to the peers; give --peers too.")
    if needles and needle_questions > needle_keys:
        raise ValueError(
            f"--needle-questions is {needle_questions}, but a text has --needle-keys {needle_keys} numbers; "
            "ask for fewer or hide more."
        )
    if output_file is not None and (output_file.is_dir() or not output_file.absolute().parent.is_dir()):
        raise ValueError(f"--output {output_file} is a directory or in none; give a file in a directory that exists.")
    if codebook not in (ONLINE, "auto"):
        # Before the model, which takes longer to load than a name to be mistyped.
        Codebook.from_pretrained(codebook, **({"revision": revision} if revision else {}))
    questions = {name: load_task(name, task_questions) for name in tasks or ()}
    content = load_text(text)
    loaded, tokenizer = load_model(model, dtype, device)
    options = cache_options(revision, residual_length, sink_length, ops_backend, sink_choice)
    windows = text_windows(tokenizer, content, window_length, max_windows)
    if separators:
        windows = _separated(loaded, tokenizer, windows, separators)
    if prompt_length is None:
        prompt_length = window_length // 2 if online else 0
    with progress_bar("Perplexity", windows.shape[0] * (windows.shape[1] - prompt_length - 1)) as advance:
        result = evaluate_perplexity(
            loaded,
            windows,
            codebook,
            chunk_length=chunk_length,
            prompt_length=prompt_length,
            batch_size=batch_size,
            progress=advance,
            **options,
        )
    report: dict[str, Any] = {
        "model": loaded.config._name_or_path,
        "codebook": codebook,
        "text": text,
        "text_sha256": hashlib.sha256(content.encode()).hexdigest(),
        "separators": separators,
        **result.to_dict(),
        "machine": _machine(loaded),
    }
    if generation_tokens:
        prompts = windows[:generation_prompts, :GENERATION_PROMPT]
        with progress_bar("Generation", 1) as advance:
            report["generation"] = judge_continuations(loaded, prompts, codebook, generation_tokens, **options)
            advance(1)
    if peers or needles or tasks:
        own = resolve(loaded, codebook, revision=revision)[0]
        lengths = {name: getattr(result, name) for name in ("sink_length", "residual_length", "sink_choice")}
        methods = [own_method(loaded, own)]
    if peers:
        texts = {name: load_text(name) for name in plain or ()}
        report["plain_texts"] = _compared_texts(texts, own)
        fitted = _plain(loaded, tokenizer, texts, own)
        others, report["left_out"] = peer_methods(loaded, result.sink_length, fitted)
        methods += others
        with progress_bar("Peers", len(methods) * windows.numel()) as advance:
            report["peers"] = compare(loaded, windows, methods, **lengths, batch_size=batch_size, progress=advance)
    if needles:
        stock = stock_method(loaded)
        haystack = load_text(needle_text)
        report["retrieval"] = [
            {
                "text": needle_text,
                "length": length,
                "keys": needle_keys,
                "questions": needle_questions,
                "seed": needle_seed,
                "samples": needles,
                "rows": _retrieval(
                    loaded,
                    needle_samples(
                        tokenizer, haystack, length, needle_keys, needles, needle_seed, questions=needle_questions
                    ),
                    [stock, *methods],
                    lengths,
                ),
            }
            for length in needle_length or [2048]
        ]
    report["tasks"] = {
        name: _task(loaded, tokenizer, name, asked, methods[0].layers, lengths) for name, asked in questions.items()
    }
    if peers:
        report["margins"] = margins(report["peers"], report.get("retrieval", ()))
    if output_file is not None:
        output_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(report)
        return
    print_perplexity(f"{report['model']} on {text}", result)
    if generation_tokens:
        print_continuations(report["generation"])
    if peers:
        print_peers(report["peers"], report["left_out"])
    for part in report.get("retrieval", ()):
        print_retrieval(part)
    if tasks:
        print_tasks(report["tasks"])
    if peers:
        print_margins(report["margins"], PEER_BITS)


def _separated(model, tokenizer, windows: torch.Tensor, share: float) -> torch.Tensor:
    """The windows with special tokens in the midst of a share of them."""
    ids = separator_ids(tokenizer, text_config(model.config).vocab_size)
    if not ids:
        raise ValueError(f"--separators {share} needs special tokens, and this tokenizer has none; leave it out.")
    return with_separators(windows, ids, share)


def _machine(model) -> dict[str, str]:
    """What the figures were measured with."""
    cuda = model.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(model.device) if cuda else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "vecinfer_hf": __version__,
    }


def _compared_texts(texts: dict[str, str], codebook: Codebook) -> list[dict[str, Any]]:
    """What plain product quantization is fitted to, and whether the codebook was made from the same text."""
    known = {source.get("sha256") for source in codebook.provenance.get("texts", ())}
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    return [{"name": name, "sha256": sha256, "same_as_codebook": sha256 in known} for name, sha256 in sums.items()]


def _plain(model, tokenizer, texts: dict[str, str], codebook: Codebook):
    """Plain product quantization fitted to the texts, or None without any."""
    if not texts:
        return None
    with progress_bar("Plain product quantization", len(full_attention_layers(model.config))) as advance:
        return plain_layers(model, tokenizer, texts, codebook.config, progress=advance)


def _retrieval(model, samples, methods, lengths: dict[str, int]) -> list[dict[str, Any]]:
    """One row per method, the stock cache first."""
    with progress_bar(f"Retrieval, about {len(samples[0].ids)} tokens", len(samples)) as advance:
        hits = needle_hits(model, samples, {row.name: row.layers for row in methods}, **lengths, progress=advance)
    return retrieval_report(hits, {row.name: row.bits for row in methods}, methods[0].name)


def _task(model, tokenizer, name: str, questions, layers, lengths: dict[str, int]) -> dict[str, Any]:
    """The answers to one task's questions with the stock cache and with the codebook."""
    pairs = [(question.context, answer) for question in questions for answer in question.answers]
    with progress_bar(f"Task {name}", 2 * len(pairs)) as advance:
        stock, coded = (
            score_answers(model, tokenizer, pairs, own, **lengths, progress=advance) for own in (None, layers)
        )
    return task_report(questions, stock, coded)
