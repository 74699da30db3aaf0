# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`calibrate`: a model and text to a Codebook.

Owns the order of the steps, progress and provenance; the steps are the other files of this directory.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import PreTrainedModel
from transformers.utils import logging

from ..codebook.codebook import Codebook
from ..config import VecInferConfig
from ..model_info import full_attention_layers, model_identity, text_config, unsupported_model_reason
from ..ops.types import LayerCodebook
from ..quantization.formats import CodeFormat, parse_format
from ..version import __version__
from .allocate import CANDIDATE_BITS, allocate_bits, measure_sensitivity, mix_sides, predicted_sensitivity
from .fit import RECIPES, error_sample, fit_layers, layer_errors
from .gradients import record_gradients
from .mixture import TextMixture, text_mixture
from .recorder import LayerStates, record_states
from .refine import refine
from .special_tokens import SHARE, separator_ids
from .windows import calibration_windows


logger = logging.get_logger(__name__)

RECALL = 0.5
"""Share of the text that asks for facts in it (see retrieval_text.py) where there are gradients."""
REFINE_BATCH = 4
"""Pieces per refinement step on a GPU; on a CPU one."""
GRADIENT_TOKENS, GRADIENT_TOKENS_CPU = 131072, 32768
"""Tokens that the recipe "default" reads at most: a backward pass costs twice a forward pass."""
_CODED_SHARE = 0.25
_SENSITIVITY_TOKENS = 4096


def calibrate(
    model: PreTrainedModel,
    tokenizer_or_ids: Any,
    texts: str | Sequence[str] | Mapping[str, str] | None = None,
    config: VecInferConfig | None = None,
    *,
    allocate: float | None = None,
    refine_steps: int = 0,
    recall: float | None = None,
    separators: float | None = None,
    progress: bool = True,
) -> Codebook:
    """Make a codebook for `model` from text.

    The text runs through the unmodified model; keys after RoPE and values of the layers with full attention are
    sampled, the first `config.sink_length` tokens of every window left out. The recipe "default" also runs the model
    backwards (see gradients.py), for at most 131072 tokens of the text, 32768 on a CPU; where windows are hardly
    longer than sinks and exact window, "query" takes its place, which is announced and recorded. Memory is bounded by
    `config.num_samples` tokens per layer (see `record_states`). The same seed, text, model and machine give the same
    bits (on a GPU, not with `refine_steps`).

    Args:
        model: a decoder-only model whose attention goes through transformers' attention interface; left as it was.
        tokenizer_or_ids: its tokenizer, or token ids (then `texts` is None).
        texts: a text, several, or name -> text. Names are recorded in the provenance.
        config: options; `sequence_length` should cover the positions that will be used.
        allocate: mean bits per element to distribute over layers, keys and values by sensitivity, instead of
            `config.key_bits`, `value_bits` and `layer_bits`. The sensitivity is measured on text, which takes 180
            short passes for 30 layers; on a CPU the recipe "default" predicts it from its gradients instead.
        refine_steps: steps of refinement by gradient against the unquantized model, about 0.4 seconds each on a
            GPU for a small model and half a minute on two CPU cores; 0 for none. It draws from all of the text. 60
            steps took a quarter off the KL divergence of 2 bits (quant_configs/README.md).
        recall: share of what is read that asks for facts scattered over it (retrieval_text.py), from 0 to below 1;
            default 0.5 for the recipe "default" and 0 for the others, of which only allocation and refinement read
            it. It comes on top of `config.num_tokens` and needs a tokenizer and windows of 512 tokens or more. What
            it does to retrieval from long texts is in quant_configs/README.md.
        separators: share of the windows in which special tokens stand here and there, as between documents strung
            together (special_tokens.py), from 0 to 1; default 0.25 for the recipe "default" and 0 for the others. It
            needs a tokenizer.
        progress: show progress bars on standard error.

    Returns:
        A `Codebook` with provenance: model, text names and SHA-256, tokens, sequence length, shares of recall
        and separators, package version, date, relative squared error of keys and values per layer.

    Raises:
        ValueError: if the model is not supported, the recipe is unknown, a head does not divide into sub-vectors,
            `allocate` or a share is out of range, or the text is too short.

    Calibration of the paper: section 3 of https://arxiv.org/abs/2510.06175.
    """
    config = config or VecInferConfig()
    indices = _check(model, config)
    started = time.monotonic()
    least, most = min(CANDIDATE_BITS), max(CANDIDATE_BITS)
    if allocate is not None and not least <= allocate <= most:
        raise ValueError(f"allocate is {allocate}; it is a mean of bits per element, from {least} to {most}.")
    head_size = model_identity(model.config)["head_dim"]
    uniform = config if allocate is None else replace(config, layer_bits=None)
    formats = uniform.formats(len(indices))
    wanted = formats if allocate is None else [_uniform_formats(bits) for bits in CANDIDATE_BITS]
    for pair in wanted:
        for code_format in pair:
            code_format.num_subvectors(head_size)
    windows, sources = calibration_windows(tokenizer_or_ids, texts, config.sequence_length, config.num_tokens)
    config = _with_a_possible_recipe(config, windows.shape[1])
    tokenizer = None if texts is None else tokenizer_or_ids
    separated = _separated(model, tokenizer, config, separators)
    text = _mixed(windows, tokenizer, config, recall, refine_steps, allocate, separated)
    training = model.training
    model.eval()
    try:
        with _bars(progress) as bar:
            states = _recorded(model, text, indices, config, bar)
            provenance: dict[str, Any] = {}
            if allocate is None:
                layers = _fit(states, dict(zip(indices, formats, strict=True)), config, bar, "Fitting")
            else:
                layers, config = _allocated(model, states, text, config, allocate, bar, provenance)
            states = {index: error_sample(layer_states) for index, layer_states in states.items()}
            if refine_steps:
                layers = _refined(model, layers, text, config, refine_steps, bar)
            errors = _errors(states, layers)
    finally:
        model.train(training)
    provenance = {
        "texts": sources,
        "tokens": windows.numel(),
        "sequence_length": windows.shape[1],
        "refine_steps": refine_steps,
        "recall": text.share,
        "separators": text.separators,
        **provenance,
        "vecinfer_hf": __version__,
        "torch": torch.__version__,
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "seconds": round(time.monotonic() - started, 1),
        "errors": errors,
    }
    layers = {index: layer.to("cpu") for index, layer in layers.items()}
    return Codebook(config, model_identity(model.config), layers, provenance)


def _check(model: PreTrainedModel, config: VecInferConfig) -> list[int]:
    """Return the layers to quantize, or raise for a model or recipe that cannot be calibrated."""
    reason = unsupported_model_reason(model)
    indices = [] if reason else full_attention_layers(model.config)
    if reason is None and not indices:
        reason = f"none of the layers of {text_config(model.config).model_type} has full attention"
    if reason:
        raise ValueError(f"Cannot calibrate this model: {reason}.")
    if config.recipe not in RECIPES:
        raise ValueError(f"recipe is {config.recipe!r}; use one of {RECIPES}.")
    return indices


def _with_a_possible_recipe(config: VecInferConfig, length: int) -> VecInferConfig:
    """Return the config with the recipe "query" where windows are too short for the gradients of "default"."""
    coded = length - config.sink_length - config.residual_length
    if config.recipe != "default" or coded >= _CODED_SHARE * length:
        return config
    logger.warning_once(
        f"vecinfer: windows of {length} tokens have too few outside {config.sink_length} sinks and the exact window "
        f'of {config.residual_length} for the recipe "default"; calibrating with "query". Longer text and a longer '
        "sequence_length give better codebooks."
    )
    return replace(config, recipe="query")


def _separated(model, tokenizer, config, share) -> tuple[list[int], float]:
    """Special tokens and the share of the text that gets them; what was asked for and cannot be is announced."""
    ids = separator_ids(tokenizer, text_config(model.config).vocab_size)
    if share and not ids:
        why = "token ids were given instead of text" if tokenizer is None else "the tokenizer has no special tokens"
        logger.warning_once(f"vecinfer: separators={share} has no effect, because {why}.")
    default = SHARE if config.recipe == "default" else 0.0
    return ids, default if share is None else share


def _mixed(windows, tokenizer, config, recall, refine_steps, allocate, separated) -> TextMixture:
    """The text with its share of recall; what was asked for and cannot be is announced."""
    if recall is None:
        recall = RECALL if config.recipe == "default" else 0.0
        return text_mixture(windows, tokenizer, recall, config.seed, *separated)
    reads = config.recipe == "default" or refine_steps or allocate is not None
    text = text_mixture(windows, tokenizer if reads else None, recall, config.seed, *separated)
    if recall and not text.share:
        why = (
            f"the recipe {config.recipe} without allocation and refinement reads no gradients"
            if not reads
            else "token ids were given instead of a tokenizer and text"
            if tokenizer is None
            else f"windows of {windows.shape[1]} tokens are too short for facts (512 or more)"
        )
        logger.warning_once(f"vecinfer: recall={recall} has no effect, because {why}.")
    return text


def _recorded(model, text: TextMixture, indices, config, bar) -> dict[int, LayerStates]:
    """What the recipe needs to see of the layers: with gradients for "default"."""
    options = {"sink_length": config.sink_length, "num_samples": config.num_samples, "seed": config.seed}
    if config.recipe != "default":
        advance = bar("Reading text", text.windows.numel())
        return record_states(model, text.all_windows(), indices, **options, progress=advance)
    most = GRADIENT_TOKENS_CPU if model.device.type == "cpu" else GRADIENT_TOKENS
    windows = text.some_windows(max(1, most // text.windows.shape[1]))
    return record_gradients(
        model,
        windows,
        indices,
        **options,
        residual_length=config.residual_length,
        sink_choice=config.sink_choice,
        max_position=_last_position(model, config, windows),
        progress=bar("Reading text", windows.numel()),
    )


def _last_position(model, config, windows) -> int:
    """End of the range over which shorter pieces of text are displaced: what was asked for, if the model has it."""
    limit = getattr(text_config(model.config), "max_position_embeddings", None) or windows.shape[1]
    return min(limit, max(config.sequence_length, windows.shape[1]))


def _uniform_formats(bits: float) -> tuple[CodeFormat, CodeFormat]:
    return parse_format(bits), parse_format(bits)


def _fit(
    states: dict[int, LayerStates],
    formats: dict[int, tuple[CodeFormat, CodeFormat]],
    config: VecInferConfig,
    bar,
    title: str,
) -> dict[int, LayerCodebook]:
    heads = next(iter(states.values())).keys.shape[0]
    rounds = sum(fmt.num_codes for pair in formats.values() for fmt in pair) * heads * config.num_iterations
    advance = bar(title, rounds)
    return fit_layers(
        states,
        formats,
        recipe=config.recipe,
        num_iterations=config.num_iterations,
        seed=config.seed,
        progress=advance,
    )


def _allocated(model, states, text: TextMixture, config, average_bits, bar, provenance):
    """Fit every candidate, measure, choose, and return the layers and the config that names the choice."""
    candidates = {}
    for bits in CANDIDATE_BITS:
        formats = dict.fromkeys(states, _uniform_formats(bits))
        candidates[bits] = _fit(states, formats, config, bar, f"Fitting {bits} bit")
    predicted = config.recipe == "default" and model.device.type == "cpu"
    if predicted:
        sensitivity = predicted_sensitivity(states, candidates)
    else:
        pieces = text.some_pieces(max(1, _SENSITIVITY_TOKENS // text.pieces.shape[1]))
        sensitivity = measure_sensitivity(
            model,
            candidates,
            pieces,
            sink_length=config.sink_length,
            residual_length=config.residual_length,
            sink_choice=config.sink_choice,
            progress=bar("Measuring sensitivity", 2 * len(states) * len(CANDIDATE_BITS)),
        )
    layer_bits = allocate_bits(sensitivity, average_bits)
    provenance["allocated_bits"] = average_bits
    provenance["sensitivity"] = sensitivity
    provenance["sensitivity_by"] = "gradients" if predicted else "measurement"
    return mix_sides(candidates, layer_bits), replace(config, layer_bits=layer_bits)


def _refined(model, layers, text: TextMixture, config, num_steps, bar) -> dict[int, LayerCodebook]:
    advance = bar("Refining", num_steps)
    return refine(
        model,
        layers,
        text.drawing(1 if model.device.type == "cpu" else REFINE_BATCH, config.seed),
        num_steps,
        sink_length=config.sink_length,
        residual_length=config.residual_length,
        sink_choice=config.sink_choice,
        max_position=_last_position(model, config, text.windows),
        seed=config.seed,
        progress=lambda _: advance(1),
    )


def _errors(states: dict[int, LayerStates], layers: dict[int, LayerCodebook]) -> list[dict[str, float | int]]:
    return [
        {"layer": index, **{side: round(error, 5) for side, error in layer_errors(states[index], layer).items()}}
        for index, layer in layers.items()
    ]


@contextmanager
def _bars(show: bool):
    """Progress bars on standard error; the value makes one bar and returns the function that advances it."""
    columns = (TextColumn("{task.description:<22}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bars:

        def bar(title: str, total: int):
            task = bars.add_task(title, total=total)
            return lambda done: bars.advance(task, done)

        yield bar
