# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What each option of calibration brings, alone and together: the same text, several seeds, mean and spread.

    python -m examples.research.ablation models/SmolLM2-135M-Instruct --text a.txt --text b.txt --seed 0 --seed 1 \\
        --output rows.json

For a GPU; on a CPU with --no-refinement. Owns the measurement; ablation_rows.py owns the rows. Allocation is predicted
from gradients in every row, as calibration does on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from vecinfer_hf.calibration.allocate import allocate_bits, mix_sides, predicted_sensitivity
from vecinfer_hf.calibration.fake_quantization import LayerFakeQuantizer
from vecinfer_hf.calibration.fit import fit_layers
from vecinfer_hf.calibration.gradients import GradientStates, record_gradients
from vecinfer_hf.calibration.loss import full_precision_states, quantization_loss
from vecinfer_hf.calibration.mixture import TextMixture, text_mixture
from vecinfer_hf.calibration.refine import refine
from vecinfer_hf.calibration.special_tokens import separator_ids, with_separators
from vecinfer_hf.calibration.steps import REFINE_BATCH
from vecinfer_hf.calibration.text import load_text
from vecinfer_hf.calibration.windows import calibration_windows, text_windows
from vecinfer_hf.calibration_config import CANDIDATE_BITS
from vecinfer_hf.cli.loading import load_model
from vecinfer_hf.model_info import full_attention_layers, text_config
from vecinfer_hf.ops.types import LayerCodebook
from vecinfer_hf.quantization.formats import parse_format

from .ablation_rows import ROWS, Row, row_transforms
from .evaluate import PERSUASION, WIKI
from .needles import NeedleSample, needle_samples
from .retrieval import needle_hits


@dataclass(frozen=True)
class Measures:
    """What every row is measured on.

    Args:
        windows: name -> int64 `[windows, T]`, text of another source than the calibration's.
        needles: name -> samples.
    """

    windows: Mapping[str, torch.Tensor]
    needles: Mapping[str, Sequence[NeedleSample]]


def ablation(
    model: PreTrainedModel,
    tokenizer: Any,
    texts: Mapping[str, str],
    measures: Measures,
    *,
    rows: Sequence[Row] = ROWS,
    bits: float = 2,
    num_tokens: int = 1 << 20,
    gradient_tokens: int = 65536,
    num_samples: int = 16384,
    sequence_length: int = 8192,
    sink_length: int = 4,
    residual_length: int = 128,
    seed: int = 0,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Calibrate and measure every row with one seed.

    Args:
        model: the model, on its device; unchanged afterwards.
        tokenizer: its tokenizer.
        texts: name -> calibration text.
        measures: what to measure on.
        rows: the combinations.
        bits: bits per element of every row.
        num_tokens: tokens of text, all of which refinement draws from.
        gradient_tokens: tokens that gradients are recorded on, once for all rows with the same text and sinks.
        num_samples: see `record_gradients`.
        sequence_length: tokens per window.
        sink_length: exact early tokens.
        residual_length: exact recent tokens.
        seed: of the text's facts, the samples, k-means and refinement.
        progress: called with each row's result.

    Returns:
        One dict per row: its options, seed, seconds (with the recording of gradients where a row is the first with its
        text and choice of sinks), for each text ratio and kl, for each set of needles hits and stock_hits.
    """
    windows, _ = calibration_windows(tokenizer, texts, sequence_length, num_tokens)
    indices = full_attention_layers(model.config)
    ids = separator_ids(tokenizer, text_config(model.config).vocab_size)
    lengths = {"sink_length": sink_length, "residual_length": residual_length}
    stock = {name: full_precision_states(model, part) for name, part in measures.windows.items()}
    stock_hits = {
        name: sum(needle_hits(model, samples, {"stock": {}}, **lengths)["stock"])
        for name, samples in measures.needles.items()
    }
    texts_of: dict[tuple[float, float], TextMixture] = {}
    states_of: dict[tuple[float, float, str], dict[int, GradientStates]] = {}
    results = []
    for row in rows:
        started = time.monotonic()
        exact = {**lengths, "sink_choice": row.sink_choice}
        shares = row.recall, row.separators
        if shares not in texts_of:
            texts_of[shares] = text_mixture(windows, tokenizer, row.recall, seed, ids, row.separators)
        text, seen = texts_of[shares], (*shares, row.sink_choice)
        if seen not in states_of:
            states_of[seen] = record_gradients(
                model,
                text.some_windows(max(1, gradient_tokens // windows.shape[1])),
                indices,
                num_samples=num_samples,
                max_position=sequence_length,
                seed=seed,
                **exact,
            )
        layers = _calibrated(model, row, states_of[seen], text, bits, exact, seed)
        seconds = time.monotonic() - started
        simulators = {index: LayerFakeQuantizer(layer.to(model.device)) for index, layer in layers.items()}
        result = {**asdict(row), "bits": bits, "seed": seed, "seconds": round(seconds, 1)}
        for name, part in measures.windows.items():
            loss = quantization_loss(model, simulators, part, full_precision=stock[name], **exact)
            result[name] = {"windows": len(part), "ratio": loss.perplexity_ratio, "kl": loss.kl}
        for name, samples in measures.needles.items():
            hits = needle_hits(model, samples, {"own": simulators}, **exact)["own"]
            result[name] = {"samples": len(hits), "hits": sum(hits), "stock_hits": stock_hits[name]}
        results.append(result)
        if progress is not None:
            progress(result)
    return results


def _calibrated(
    model: PreTrainedModel,
    row: Row,
    states: Mapping[int, GradientStates],
    text: TextMixture,
    bits: float,
    exact: Mapping[str, int | str],
    seed: int,
) -> dict[int, LayerCodebook]:
    fitted = {}
    for own in CANDIDATE_BITS if row.allocated else (bits,):
        code_format = parse_format(own)
        fitted[own] = fit_layers(
            states,
            dict.fromkeys(states, (code_format, code_format)),
            transforms={index: row_transforms(part, code_format.subvector_dim, row) for index, part in states.items()},
            weighted=row.weighted,
            seed=seed,
        )
    if row.allocated:
        layers = mix_sides(fitted, allocate_bits(predicted_sensitivity(states, fitted), bits))
    else:
        layers = fitted[bits]
    if row.steps:
        batch = 1 if model.device.type == "cpu" else REFINE_BATCH
        last = text.windows.shape[1]
        layers = refine(model, layers, text.drawing(batch, seed), row.steps, max_position=last, seed=seed, **exact)
    return layers


def summary(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one dict per row name: seeds, and mean and standard deviation over the seeds of every figure."""
    table = []
    for name in dict.fromkeys(result["name"] for result in results):
        own = [result for result in results if result["name"] == name]
        line: dict[str, Any] = {"name": name, "seeds": len(own)}
        for measure, first in own[0].items():
            if not isinstance(first, dict):
                continue
            for figure in (name for name in first if name not in ("windows", "samples")):
                values = [result[measure][figure] for result in own]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                line[f"{measure} {figure}"] = {"mean": statistics.fmean(values), "spread": spread}
        table.append(line)
    return table


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", action="append", required=True, help="calibration text; repeatable")
    parser.add_argument("--measure", default=WIKI, help="text to measure on")
    parser.add_argument("--needle-text", default=PERSUASION, help="text to hide numbers in")
    parser.add_argument("--seed", action="append", type=int, help="repeatable; default 0")
    parser.add_argument("--no-refinement", action="store_true", help="leave out its rows, which take a GPU")
    parser.add_argument("--windows", type=int, default=12, help="windows of 2048 tokens, and a sixth as many of 8192")
    parser.add_argument("--needles", type=int, default=256, help="questions about texts of 4096 tokens")
    parser.add_argument("--num-tokens", type=int, default=1 << 20)
    parser.add_argument("--gradient-tokens", type=int, default=65536)
    parser.add_argument("--sequence-length", type=int, default=8192)
    parser.add_argument("--device")
    parser.add_argument("--output", type=Path, required=True)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the ablation, print each row as JSON, and keep rows and summary in the output file."""
    options = argument_parser().parse_args(arguments)
    model, tokenizer = load_model(options.model, "float32", options.device)
    texts = {name: load_text(name) for name in options.text}
    content, name = load_text(options.measure), Path(options.measure).stem
    short = text_windows(tokenizer, content, 2048, options.windows)
    windows = {f"{name} 2048": short}
    if options.windows >= 6:
        windows[f"{name} 8192"] = text_windows(tokenizer, content, 8192, options.windows // 6)
    ids = separator_ids(tokenizer, text_config(model.config).vocab_size)
    windows[f"{name} 2048 with separators"] = with_separators(short, ids, 1.0)
    needles = {}
    if options.needles:
        haystack = load_text(options.needle_text)
        needles["needles 4096"] = needle_samples(tokenizer, haystack, 4096, 4, options.needles, questions=4)
    rows = [row for row in ROWS if not (options.no_refinement and row.steps)]
    results: list[dict[str, Any]] = []

    def keep(result: dict[str, Any]) -> None:
        results.append(result)
        options.output.write_text(json.dumps({"rows": results, "summary": summary(results)}, indent=1) + "\n")
        print(json.dumps(result), flush=True)

    for seed in options.seed or [0]:
        ablation(
            model,
            tokenizer,
            texts,
            Measures(windows, needles),
            rows=rows,
            num_tokens=options.num_tokens,
            gradient_tokens=options.gradient_tokens,
            sequence_length=options.sequence_length,
            seed=seed,
            progress=keep,
        )


if __name__ == "__main__":
    main()
