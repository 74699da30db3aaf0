# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`calibrate`: a model and text to a Codebook.

Owns the order of the steps and the provenance; requirements.py checks before anything runs, steps.py runs the steps.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import torch
from transformers import PreTrainedModel

from ..calibration_config import CalibrationConfig
from ..codebook.codebook import Codebook
from ..distributed.devices import computing_device
from ..distributed.heads import head_shard
from ..model_info import model_identity
from ..version import __version__
from . import steps
from .fit import error_sample
from .loss import check_logits
from .model_state import evaluation_mode
from .progress import progress_bars
from .requirements import calibratable_model, check_config, check_ids, check_lengths, mixed_text, possible_recipe
from .source import read_source
from .windows import windows_of_texts


def calibrate(
    model: PreTrainedModel,
    tokenizer_or_ids: Any = None,
    texts: Any = None,
    config: CalibrationConfig | None = None,
    *,
    tokenizer: Any = None,
    progress: bool = True,
) -> Codebook:
    """Make a codebook for `model` from text.

        calibrate(model, tokenizer, texts, CalibrationConfig(key_bits=2))
        calibrate(model, ids, config=CalibrationConfig(key_bits=2))

    The text runs through the unmodified model; keys after RoPE and values of the layers with full attention are
    sampled, the first `config.sink_length` tokens of every window left out. The recipe "default" also runs the model
    backwards (gradients.py), for at most 131072 tokens of the text, 32768 on a CPU; where windows are hardly longer
    than sinks and full-precision window, "query" takes its place, with a warning and recorded in the config. Memory is
    bounded by `config.num_samples` tokens per layer (`record_states`). On a CPU the same config, text and model give
    the same bits. On a GPU only recipes without gradients and without `refine_steps` do: the backward pass of
    attention adds in an order that changes from run to run.

    With `config.allocate` the sensitivity of each layer is measured on text, which takes 180 short passes for 30
    layers; on a CPU the recipe "default" predicts it from its gradients instead. A refinement step takes about 0.4
    seconds on a GPU for a small model and half a minute on two CPU cores. `config.retrieval_fraction` comes on top of
    `config.num_tokens` and needs a tokenizer and windows of 512 tokens or more; `config.separator_fraction` needs a
    tokenizer with special tokens.

    Under tensor parallelism all processes call this together with the same arguments, and each returns the codebook of
    all heads; one of them saves it.

    Args:
        model: a decoder-only model whose attention goes through transformers' attention interface, also inside a PEFT
            model; left as it was.
        tokenizer_or_ids: its tokenizer; or token ids: a list, a tensor `[T]` or `[B, T]`, a list of lists, a
            BatchEncoding, a dictionary from name to ids. Rows are separate texts, without what their attention mask
            hides.
        texts: a text, several, or name -> text; also token ids. Names are recorded in the provenance.
        config: how to make it; None for the defaults.
        tokenizer: the tokenizer by name, if it is not the second argument.
        progress: show progress bars on standard error, those of one process.

    Returns:
        A `Codebook`. Its config is the one given, with the recipe and the fractions that were really used, so that
        `calibrate` with it and the same texts makes the codebook again. Its provenance has the texts' names and
        SHA-256, tokens, versions, date, and relative squared errors per layer.

    Raises:
        UnsupportedModelError: if the model cannot be calibrated.
        ConfigError: if an argument is of the wrong kind, an option does not fit this model, or the text is too short;
            all before the model runs.

    Calibration of the paper: section 3 of https://arxiv.org/abs/2510.06175.
    """
    started = time.monotonic()
    config = check_config(config, texts)
    model, indices = calibratable_model(model, config)
    tokenizer, token_texts = read_source(tokenizer_or_ids, texts, tokenizer)
    check_ids(model, token_texts)
    windows, sources = windows_of_texts(token_texts, config.sequence_length, config.num_tokens)
    config = possible_recipe(config, windows.shape[1])
    text = mixed_text(model, windows, tokenizer, config)
    check_lengths(model, text, config)
    config = replace(config, retrieval_fraction=text.retrieval_fraction, separator_fraction=text.separator_fraction)
    with evaluation_mode(model), progress_bars(progress and head_shard(model).rank == 0) as bar:
        if config.recipe == "default" or config.refine_steps or config.allocate is not None:
            check_logits(model, windows[:1, :16])
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
        layers = {index: layer.to("cpu") for index, layer in layers.items()}
    provenance = {
        "texts": sources,
        "tokens": windows.numel(),
        **sensitivity,
        "vecinfer_hf": __version__,
        "torch": torch.__version__,
        "device": computing_device(model).type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "seconds": round(time.monotonic() - started, 1),
        "errors": errors,
    }
    return Codebook(config, model_identity(model.config), layers, provenance)
