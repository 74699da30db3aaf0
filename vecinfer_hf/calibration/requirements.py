# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The checks of a calibration's model, config and text, made before the model runs.

Owns the refusals, and the recipe and fractions that replace impossible ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..calibration_config import CANDIDATE_BITS, CalibrationConfig
from ..config import VecInferConfig
from ..distributed.devices import computing_device
from ..distributed.heads import head_shard
from ..errors import ConfigError, UnsupportedModelError
from ..model_info import full_attention_layers, head_shapes, text_config, unsupported_model_reason
from ..model_info.refusals import model_probe
from ..quantization.formats import parse_format
from .mixture import TextMixture, text_mixture
from .retrieval_text import MIN_LENGTH, RETRIEVAL_FRACTION
from .source import TokenText
from .special_tokens import SEPARATOR_FRACTION, separator_ids
from .steps import measures_sensitivity


logger = logging.get_logger(__name__)

_QUANTIZED_FRACTION = 0.25
"""Fraction of a window that must lie outside sinks and full-precision window for gradients to be useful."""


def check_config(config: Any, texts: Any) -> CalibrationConfig:
    """Return the config, the defaults for None.

    Raises:
        ConfigError: if it is of another kind, or stands in the place of the texts.
    """
    if isinstance(texts, (CalibrationConfig, VecInferConfig)):
        raise ConfigError(f"texts is a {type(texts).__name__}; give it by name: calibrate(model, ids, config=...).")
    if config is None:
        return CalibrationConfig()
    if not isinstance(config, CalibrationConfig):
        what = ", which says how a cache runs" if isinstance(config, VecInferConfig) else ""
        raise ConfigError(f"config is a {type(config).__name__}{what}; calibrate needs a CalibrationConfig.")
    return config


def calibratable_model(model: Any, config: CalibrationConfig) -> tuple[PreTrainedModel, list[int]]:
    """Return the model, for a PEFT model the one inside, and the layers to quantize.

    Raises:
        UnsupportedModelError: for a model that cannot be calibrated.
        ConfigError: if a format does not divide its heads into sub-vectors.
    """
    if not isinstance(model, PreTrainedModel) and hasattr(model, "get_base_model"):
        model = model.get_base_model()
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModelError(
            f"model is a {type(model).__name__}; calibrate needs a transformers model first, then its tokenizer."
        )
    reason = unsupported_model_reason(model)
    indices = [] if reason else full_attention_layers(model.config)
    if reason is None and not indices:
        reason = f"none of the layers of {text_config(model.config).model_type} has full attention"
    found = None if reason else model_probe(model)
    if found is not None and found.failure is None:
        moved = [index for index in indices if index not in found.readers[index]]
        if moved:
            reason = (
                f"the attention of layers {moved} does not know its layer, because {type(model).__name__} uses one "
                'module in several. Use codebook="online", which needs no calibration'
            )
    if reason is None and computing_device(model).type == "mps":
        reason = (
            "it is on mps, which has no float64. Calibrate it on the CPU, model.to('cpu'), and use the codebook on mps"
        )
    if reason:
        raise UnsupportedModelError(f"Cannot calibrate this model: {reason}.")
    # Refuses a number of processes that cannot share the heads.
    head_shard(model)
    formats = config.formats(len(indices))
    if config.allocate is not None:
        formats = [(parse_format(bits), parse_format(bits)) for bits in CANDIDATE_BITS]
    sizes = {(shape.key_head_dim, shape.value_head_dim) for shape in head_shapes(model.config).values()}
    for pair in formats:
        for code_format, size in [each for own in sizes for each in zip(pair, own, strict=True)]:
            try:
                code_format.num_subvectors(size)
            except ValueError as error:
                raise ConfigError(str(error)) from None
    return model, indices


def check_ids(model: PreTrainedModel, texts: Sequence[TokenText]) -> None:
    """Raise ConfigError for a token id that the model's embedding does not have."""
    size = getattr(model.get_input_embeddings(), "num_embeddings", None) or text_config(model.config).vocab_size
    for text in texts:
        outside = text.ids[(text.ids < 0) | (text.ids >= size)]
        if len(outside):
            raise ConfigError(
                f"{text.name} has the token id {outside[0].item()}, but the model has the ids 0 to {size - 1}; use "
                "the model's own tokenizer, and leave out labels and padding."
            )


def possible_recipe(config: CalibrationConfig, length: int) -> CalibrationConfig:
    """Return the config with the recipe "query" where windows are too short for the gradients of "default"."""
    quantized = length - config.sink_length - config.residual_length
    if config.recipe != "default" or quantized >= _QUANTIZED_FRACTION * length:
        return config
    logger.warning_once(
        f"vecinfer: windows of {length} tokens have too few outside {config.sink_length} sinks and the full-precision "
        f'window of {config.residual_length} for the recipe "default"; calibrating with "query". Longer text and a '
        "longer sequence_length give better codebooks."
    )
    return replace(config, recipe="query")


def check_lengths(model: PreTrainedModel, text: TextMixture, config: CalibrationConfig) -> None:
    """Raise ConfigError unless windows are long enough for recording, refinement and measurement."""
    length, first = text.pieces.shape[1], config.sink_length + config.residual_length
    if text.windows.shape[1] <= config.sink_length:
        raise ConfigError(
            f"Windows of {length} tokens leave none to calibrate on after {config.sink_length} sinks; use longer "
            "windows (sequence_length)."
        )
    measured = ["refine_steps"] if config.refine_steps else []
    if config.allocate is not None and measures_sensitivity(model, config):
        measured.append("allocate")
    if measured and length < first + 2:
        raise ConfigError(
            f"{' and '.join(measured)}: text is read {length} tokens at a time, but {config.sink_length} sinks and a "
            f"full-precision window of {config.residual_length} need {first + 2} or more; use a longer "
            "sequence_length or a smaller residual_length."
        )


def mixed_text(
    model: PreTrainedModel, windows: torch.Tensor, tokenizer: Any, config: CalibrationConfig
) -> TextMixture:
    """Return the text of a calibration; a fraction that was asked for and cannot be had is announced.

    Args:
        model: the model.
        windows: int64 `[windows, T]`.
        tokenizer: the model's tokenizer, or None where only token ids were given.
        config: how the codebook is made.
    """
    by_gradients = config.recipe == "default"
    ids = [] if tokenizer is None else separator_ids(tokenizer, text_config(model.config).vocab_size)
    separators = config.separator_fraction
    if separators and not ids:
        given = "token ids were given without a tokenizer"
        why = given if tokenizer is None else "the tokenizer has no special tokens"
        logger.warning_once(f"vecinfer: separator_fraction={separators} has no effect, because {why}.")
    if separators is None:
        separators = SEPARATOR_FRACTION if by_gradients else 0.0
    retrieval = config.retrieval_fraction
    if retrieval is None:
        retrieval = RETRIEVAL_FRACTION if by_gradients else 0.0
    reads = by_gradients or config.refine_steps or config.allocate is not None
    text = text_mixture(windows, tokenizer if reads else None, retrieval, config.seed, ids, separators)
    if config.retrieval_fraction and not text.retrieval_fraction:
        why = (
            f"the recipe {config.recipe} without allocation and refinement reads no gradients"
            if not reads
            else "token ids were given without a tokenizer"
            if tokenizer is None
            else f"windows of {windows.shape[1]} tokens are too short for facts ({MIN_LENGTH} or more)"
        )
        logger.warning_once(f"vecinfer: retrieval_fraction={config.retrieval_fraction} has no effect, because {why}.")
    return text
