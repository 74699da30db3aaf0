# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The steps of a calibration, each with its progress bar: record, fit, allocate, refine, judge.

Owns what of the config each step reads; the steps themselves are recorder.py, gradients.py, fit.py, allocate.py and
refine.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedModel

from ..calibration_config import CANDIDATE_BITS, CalibrationConfig
from ..distributed.devices import computing_device
from ..model_info import text_config
from ..ops.types import LayerCodebook
from ..quantization.formats import CodeFormat, parse_format
from .allocate import allocate_bits, measure_sensitivity, mix_sides, predicted_sensitivity
from .fit import SideTransform, fit_layers, layer_errors, side_transforms
from .gradients import record_gradients
from .mixture import TextMixture
from .recorder import LayerStates, of_all_heads, record_states
from .refine import refine


Bar = Callable[[str, int], Callable[[int], None]]
"""(title, total) -> the function that advances a new progress bar."""

REFINE_BATCH = 4
"""Pieces per refinement step on a GPU; on a CPU one."""
GRADIENT_TOKENS, GRADIENT_TOKENS_CPU = 131072, 32768
"""Tokens that the recipe "default" reads at most: a backward pass costs twice a forward pass."""
_SENSITIVITY_TOKENS = 4096


def record(
    model: PreTrainedModel, text: TextMixture, indices: Sequence[int], config: CalibrationConfig, bar: Bar
) -> dict[int, LayerStates]:
    """Return what the recipe needs of each layer: keys, values and query statistics, for "default" also gradients.

    All heads, also where the model runs on several processes that have some of them each.
    """
    options = {"sink_length": config.sink_length, "num_samples": config.num_samples, "seed": config.seed}
    if config.recipe != "default":
        advance = bar("Reading text", text.windows.numel())
        return of_all_heads(model, record_states(model, text.all_windows(), indices, **options, progress=advance))
    most = GRADIENT_TOKENS_CPU if computing_device(model).type == "cpu" else GRADIENT_TOKENS
    windows = text.some_windows(max(1, most // text.windows.shape[1]))
    states = record_gradients(
        model,
        windows,
        indices,
        **options,
        residual_length=config.residual_length,
        sink_choice=config.sink_choice,
        max_position=_last_position(model, config, windows.shape[1]),
        progress=bar("Reading text", windows.numel()),
    )
    return of_all_heads(model, states)


def fit(
    states: dict[int, LayerStates],
    formats: dict[int, tuple[CodeFormat, CodeFormat]],
    config: CalibrationConfig,
    bar: Bar,
    title: str,
    transforms: dict[int, tuple[SideTransform, SideTransform]] | None = None,
) -> dict[int, LayerCodebook]:
    """Return the layers' codebooks, fitted by the config's recipe to the given formats; see `fit_layers`."""
    problems = sum(fmt.num_codes * len(states[index].keys) for index, pair in formats.items() for fmt in pair)
    return fit_layers(
        states,
        formats,
        recipe=config.recipe,
        transforms=transforms,
        num_iterations=config.num_iterations,
        seed=config.seed,
        progress=bar(title, problems * config.num_iterations),
    )


def allocate(
    model: PreTrainedModel, states: dict[int, LayerStates], text: TextMixture, config: CalibrationConfig, bar: Bar
) -> tuple[dict[int, LayerCodebook], dict[str, Any]]:
    """Fit every candidate, measure, choose, and return the layers and the sensitivities for the provenance."""
    candidates, transforms = {}, {}
    for bits in CANDIDATE_BITS:
        pair = parse_format(bits), parse_format(bits)
        dim = pair[0].subvector_dim
        if dim not in transforms:
            transforms[dim] = {index: side_transforms(own, pair, config.recipe) for index, own in states.items()}
        formats = dict.fromkeys(states, pair)
        candidates[bits] = fit(states, formats, config, bar, f"Fitting {bits} bit", transforms[dim])
    measured = measures_sensitivity(model, config)
    if not measured:
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
    layers = mix_sides(candidates, allocate_bits(sensitivity, config.allocate))
    return layers, {"sensitivity": sensitivity, "sensitivity_by": "measurement" if measured else "gradients"}


def measures_sensitivity(model: PreTrainedModel, config: CalibrationConfig) -> bool:
    """Return True if `allocate` measures on text; on a CPU the gradients of "default" predict instead."""
    if config.sensitivity_by is not None and config.recipe == "default":
        return config.sensitivity_by == "measurement"
    return config.recipe != "default" or computing_device(model).type != "cpu"


def refine_layers(
    model: PreTrainedModel, layers: dict[int, LayerCodebook], text: TextMixture, config: CalibrationConfig, bar: Bar
) -> dict[int, LayerCodebook]:
    """Return the layers after `config.refine_steps` steps of refinement."""
    advance = bar("Refining", config.refine_steps)
    return refine(
        model,
        layers,
        text.drawing(1 if computing_device(model).type == "cpu" else REFINE_BATCH, config.seed),
        config.refine_steps,
        sink_length=config.sink_length,
        residual_length=config.residual_length,
        sink_choice=config.sink_choice,
        max_position=_last_position(model, config, text.windows.shape[1]),
        seed=config.seed,
        progress=lambda _: advance(1),
    )


def errors(states: dict[int, LayerStates], layers: dict[int, LayerCodebook]) -> list[dict[str, float | int]]:
    """Return the relative squared error of keys and values of each layer."""
    return [
        {"layer": index, **{side: round(error, 5) for side, error in layer_errors(states[index], layer).items()}}
        for index, layer in layers.items()
    ]


def _last_position(model: PreTrainedModel, config: CalibrationConfig, length: int) -> int:
    """Return where the range ends over which windows are displaced: the length asked for, if the model has it."""
    limit = getattr(text_config(model.config), "max_position_embeddings", None) or length
    return min(limit, max(config.sequence_length, length))
