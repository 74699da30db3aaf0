# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`calibrate`: a model and text to a Codebook.

Owns the checks, the order of the steps and the provenance; steps.py runs them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..calibration_config import CANDIDATE_BITS, CalibrationConfig
from ..codebook.codebook import Codebook
from ..errors import UnsupportedModelError
from ..model_info import full_attention_layers, head_shapes, model_identity, text_config, unsupported_model_reason
from ..quantization.formats import parse_format
from ..version import __version__
from . import steps
from .fit import error_sample
from .mixture import TextMixture, text_mixture
from .progress import progress_bars
from .special_tokens import SHARE, separator_ids
from .windows import calibration_windows


logger = logging.get_logger(__name__)

RETRIEVAL_FRACTION = 0.5
"""Default fraction of needle-style windows (retrieval_text.py) where a recipe reads gradients."""
_CODED_SHARE = 0.25
"""Fraction of a window that must lie outside sinks and exact window for gradients to say anything."""


def calibrate(
    model: PreTrainedModel,
    tokenizer_or_ids: Any,
    texts: str | Sequence[str] | Mapping[str, str] | None = None,
    config: CalibrationConfig | None = None,
    *,
    progress: bool = True,
) -> Codebook:
    """Make a codebook for `model` from text.

    The text runs through the unmodified model; keys after RoPE and values of the layers with full attention are
    sampled, the first `config.sink_length` tokens of every window left out. The recipe "default" also runs the model
    backwards (gradients.py), for at most 131072 tokens of the text, 32768 on a CPU; where windows are hardly longer
    than sinks and exact window, "query" takes its place, which is announced and recorded. Memory is bounded by
    `config.num_samples` tokens per layer (`record_states`). The same config, text, model and machine give the same
    bits (on a GPU, not with `refine_steps`).

    With `config.allocate` the sensitivity of each layer is measured on text, which takes 180 short passes for 30
    layers; on a CPU the recipe "default" predicts it from its gradients instead. A refinement step takes about 0.4
    seconds on a GPU for a small model and half a minute on two CPU cores. `config.retrieval_fraction` comes on top of
    `config.num_tokens` and needs a tokenizer and windows of 512 tokens or more; `config.separator_fraction` needs a
    tokenizer with special tokens.

    Args:
        model: a decoder-only model whose attention goes through transformers' attention interface; left as it was.
        tokenizer_or_ids: its tokenizer, or token ids (then `texts` is None).
        texts: a text, several, or name -> text. Names are recorded in the provenance.
        config: how to make it; None for the defaults.
        progress: show progress bars on standard error.

    Returns:
        A `Codebook`. Its config is the one given, with the recipe and the fractions that were really used. Its
        provenance has the texts' names and SHA-256, tokens, versions, date, and relative squared errors per layer.

    Raises:
        UnsupportedModelError: if the model cannot be calibrated.
        ConfigError: if an option does not fit this model.
        ValueError: if a head does not divide into sub-vectors, or the text is too short.

    Calibration of the paper: section 3 of https://arxiv.org/abs/2510.06175.
    """
    config = CalibrationConfig() if config is None else config
    indices = _quantized_layers(model)
    started = time.monotonic()
    _check_formats(model, config, len(indices))
    windows, sources = calibration_windows(tokenizer_or_ids, texts, config.sequence_length, config.num_tokens)
    config = _with_a_possible_recipe(config, windows.shape[1])
    text = _mixed_text(model, windows, None if texts is None else tokenizer_or_ids, config)
    config = replace(config, retrieval_fraction=text.share, separator_fraction=text.separators)
    training = model.training
    model.eval()
    try:
        with progress_bars(progress) as bar:
            states = steps.record(model, text, indices, config, bar)
            sensitivity: dict[str, Any] = {}
            if config.allocate is None:
                formats = dict(zip(indices, config.formats(len(indices)), strict=True))
                layers = steps.fit(states, formats, config, bar, "Fitting")
            else:
                layers, sensitivity = steps.allocate(model, states, text, config, bar)
            states = {index: error_sample(layer_states) for index, layer_states in states.items()}
            if config.refine_steps:
                layers = steps.refine_layers(model, layers, text, config, bar)
            errors = steps.errors(states, layers)
    finally:
        model.train(training)
    provenance = {
        "texts": sources,
        "tokens": windows.numel(),
        **sensitivity,
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


def _quantized_layers(model: PreTrainedModel) -> list[int]:
    """Return the layers to quantize.

    Raises:
        UnsupportedModelError: for a model that cannot be calibrated.
    """
    reason = unsupported_model_reason(model)
    indices = [] if reason else full_attention_layers(model.config)
    if reason is None and not indices:
        reason = f"none of the layers of {text_config(model.config).model_type} has full attention"
    if reason:
        raise UnsupportedModelError(f"Cannot calibrate this model: {reason}.")
    return indices


def _check_formats(model: PreTrainedModel, config: CalibrationConfig, num_layers: int) -> None:
    """Raise ValueError unless every format divides the model's heads into sub-vectors."""
    formats = config.formats(num_layers)
    if config.allocate is not None:
        formats = [(parse_format(bits), parse_format(bits)) for bits in CANDIDATE_BITS]
    for pair in formats:
        for code_format in pair:
            for shape in head_shapes(model.config).values():
                code_format.num_subvectors(shape.key_head_dim)
                code_format.num_subvectors(shape.value_head_dim)


def _with_a_possible_recipe(config: CalibrationConfig, length: int) -> CalibrationConfig:
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


def _mixed_text(model, windows: torch.Tensor, tokenizer, config: CalibrationConfig) -> TextMixture:
    """Return the text of a calibration; a fraction that was asked for and cannot be had is announced.

    Args:
        model: the model.
        windows: int64 `[windows, T]`.
        tokenizer: the model's tokenizer, or None where token ids were given.
        config: how the codebook is made.
    """
    by_gradients = config.recipe == "default"
    ids = separator_ids(tokenizer, text_config(model.config).vocab_size)
    separators = config.separator_fraction
    if separators and not ids:
        why = "token ids were given instead of text" if tokenizer is None else "the tokenizer has no special tokens"
        logger.warning_once(f"vecinfer: separator_fraction={separators} has no effect, because {why}.")
    if separators is None:
        separators = SHARE if by_gradients else 0.0
    retrieval = config.retrieval_fraction
    if retrieval is None:
        retrieval = RETRIEVAL_FRACTION if by_gradients else 0.0
    reads = by_gradients or config.refine_steps or config.allocate is not None
    text = text_mixture(windows, tokenizer if reads else None, retrieval, config.seed, ids, separators)
    if config.retrieval_fraction and not text.share:
        why = (
            f"the recipe {config.recipe} without allocation and refinement reads no gradients"
            if not reads
            else "token ids were given instead of a tokenizer and text"
            if tokenizer is None
            else f"windows of {windows.shape[1]} tokens are too short for facts (512 or more)"
        )
        logger.warning_once(f"vecinfer: retrieval_fraction={config.retrieval_fraction} has no effect, because {why}.")
    return text
