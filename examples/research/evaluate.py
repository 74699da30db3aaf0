# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m examples.research.evaluate`: what `vecinfer evaluate` measures, and studies of the same codebook.

Other quantizers (--peers), numbers hidden in long texts (--needles), long greedy texts (--generation-tokens) and
few-shot questions (--tasks). MEASURES.md says how each is measured. Owns the command; other files own the measures.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from vecinfer_hf.cache.online_codebook import ONLINE
from vecinfer_hf.calibration.special_tokens import separator_ids, with_separators
from vecinfer_hf.calibration.text import load_text
from vecinfer_hf.cli.app import run
from vecinfer_hf.cli.console import print_json, progress_bar
from vecinfer_hf.cli.evaluate import (
    BatchSize,
    ChunkLength,
    MaxWindows,
    PromptLength,
    Text,
    WindowLength,
    measure,
    print_perplexity,
)
from vecinfer_hf.cli.evaluate import report as perplexity_report
from vecinfer_hf.cli.loading import check_codebook, load_model
from vecinfer_hf.cli.options import (
    AsJson,
    CodebookName,
    Device,
    Dtype,
    Model,
    OpsBackend,
    ResidualLength,
    Revision,
    SinkChoice,
    SinkLength,
    cache_options,
)
from vecinfer_hf.codebook.codebook import Codebook
from vecinfer_hf.evaluation import text_windows
from vecinfer_hf.integration.resolve import resolve
from vecinfer_hf.model_info import full_attention_layers, text_config

from ..assets.tasks import TASKS, load_task
from .compare import PEER_BITS, compare, margins
from .continuations import judge_continuations
from .methods import own_method, peer_methods, stock_method
from .needles import needle_samples
from .plain import plain_layers
from .retrieval import needle_hits, retrieval_report
from .tables import print_continuations, print_margins, print_peers, print_retrieval, print_tasks
from .tasks import score_answers, task_report


GENERATION_PROMPT = 512
"""Tokens of each prompt of the long texts, the beginnings of windows."""
WIKI, PERSUASION = "models/texts/wiki.txt", "models/texts/austen/persuasion.txt"
"""What `make models` writes; the codebooks of the package have seen neither."""

app = typer.Typer(name="evaluate", add_completion=False, pretty_exceptions_enable=False)


COMPANIONS = {
    "generation_tokens": ("generation_prompts",),
    "needles": ("needle_text", "needle_length", "needle_keys", "needle_questions", "needle_seed"),
    "peers": ("plain",),
    "tasks": ("task_questions",),
}
"""Options that only say more about another one."""


@app.command()
def evaluate(
    context: typer.Context,
    model: Model,
    codebook: CodebookName,
    text: Text = WIKI,
    window_length: WindowLength = 2048,
    max_windows: MaxWindows = 8,
    separator_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of windows with special tokens at random places.")
    ] = 0,
    chunk_length: ChunkLength = 16,
    prompt_length: PromptLength = None,
    batch_size: BatchSize = 1,
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
    needle_text: Annotated[str, typer.Option(help="Text to hide them in.")] = PERSUASION,
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
    sink_choice: SinkChoice = None,
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
    _check_companions(context)
    if needles and needle_questions > needle_keys:
        raise ValueError(
            f"--needle-questions is {needle_questions}, but a text has --needle-keys {needle_keys} numbers; "
            "ask for fewer or hide more."
        )
    if output_file is not None and (output_file.is_dir() or not output_file.absolute().parent.is_dir()):
        raise ValueError(f"--output {output_file} is a directory or in none; give a file in a directory that exists.")
    options = cache_options(
        codebook,
        revision=revision,
        residual_length=residual_length,
        sink_length=sink_length,
        sink_choice=sink_choice,
        ops_backend=ops_backend,
    )
    check_codebook(codebook, revision)
    questions = {name: load_task(name, task_questions) for name in tasks or ()}
    content = load_text(text)
    loaded, tokenizer = load_model(model, dtype, device)
    windows = text_windows(tokenizer, content, window_length, max_windows)
    if separator_fraction:
        windows = _separated(loaded, tokenizer, windows, separator_fraction)
    result = measure(loaded, windows, codebook, chunk_length, prompt_length, batch_size, **options)
    report = {
        **perplexity_report(loaded, model, codebook, text, content, result),
        "separator_fraction": separator_fraction,
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


def _check_companions(context: typer.Context) -> None:
    """Raise ValueError for an option that was given without the one it belongs to."""
    for leader, companions in COMPANIONS.items():
        for name in companions:
            given = context.get_parameter_source(name).name == "COMMANDLINE"
            if given and not context.params[leader]:
                raise ValueError(f"--{name.replace('_', '-')} has no effect without --{leader.replace('_', '-')}.")


def _separated(model, tokenizer, windows: torch.Tensor, share: float) -> torch.Tensor:
    """The windows with special tokens in the midst of a share of them."""
    ids = separator_ids(tokenizer, text_config(model.config).vocab_size)
    if not ids:
        raise ValueError(
            f"--separator-fraction {share} needs special tokens, and this tokenizer has none; leave it out."
        )
    return with_separators(windows, ids, share)


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


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 on success, 2 on bad input."""
    run(app, arguments)


if __name__ == "__main__":
    main()
