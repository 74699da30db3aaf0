# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Format 1 of config.json, which vecinfer_hf 0.1 wrote, read as a Description. Nothing writes it any more.

It named one head size for all layers, had no hash of the tensors, and kept the options of calibration in two places.
Also the options of a cache that version 0.1 wrote, which held those of calibration too.
"""

from __future__ import annotations

from typing import Any

from ..calibration_config import MOVED_FROM_PROVENANCE, CalibrationConfig
from ..config import SMALL_VALUES
from ..errors import CodebookError, ConfigError
from ..model_info import HeadShape, ModelIdentity
from ..quantization.formats import parse_format
from .description import MAX_LAYERS, Description, free_form, head_shape
from .fields import Fields
from .tensors import LayerForm, SideForm


def description_from_format_1(data: dict[str, Any]) -> Description:
    """Return what a config.json of format 1 says.

    Raises:
        CodebookError: for a field that is missing or breaks a rule.
    """
    top = Fields("", data)
    provenance = free_form(top, "provenance")
    try:
        config = CalibrationConfig.from_version_0_1(top.take("vecinfer_config", dict), provenance)
    except ConfigError as error:
        raise CodebookError(f"vecinfer_config cannot be used: {error} Else calibrate again.") from error
    shapes, promised = _layers(top.take("layers", list))
    identity = _identity(top.take("model", dict), shapes)
    # What moved into the config is said there alone.
    kept = {name: value for name, value in provenance.items() if name not in MOVED_FROM_PROVENANCE}
    if kept.get("sequence_length") == config.sequence_length:
        del kept["sequence_length"]
    return Description(config, identity, None, None, kept, free_form(top, "metrics"), promised)


def _layers(entries: list[Any]) -> tuple[dict[int, HeadShape], dict[int, LayerForm]]:
    """Return the heads of each layer and the forms of its tensors."""
    shapes, promised = {}, {}
    for position, entry in enumerate(entries):
        layer = Fields(f"layers[{position}]", entry)
        index = layer.integer("index", 0, MAX_LAYERS - 1)
        if index in shapes:
            raise CodebookError(f"layers has the layer {index} twice. Download or calibrate the codebook again.")
        shapes[index] = head_shape(layer, "head_dim", "head_dim")
        promised[index] = LayerForm(_side(layer, "key"), _side(layer, "value"))
    if not shapes:
        raise CodebookError("layers is empty; a codebook needs at least one layer. Calibrate again.")
    return dict(sorted(shapes.items())), promised


def _side(layer: Fields, side: str) -> SideForm:
    try:
        code_format = parse_format(layer.take(f"{side}_format", str))
    except ValueError as error:
        raise CodebookError(
            f"{layer.where}.{side}_format: {error} Download or calibrate the codebook again."
        ) from error
    return SideForm(code_format, layer.text(f"{side}_transform", optional=True), layer.take(f"{side}_mean", bool))


def _identity(data: dict[str, Any], shapes: dict[int, HeadShape]) -> ModelIdentity:
    """Return the model's identity; CodebookError if the model and the list of layers contradict each other."""
    model = Fields("model", data)
    identity = ModelIdentity(
        model.text("name", optional=True) or "",
        model.text("revision", optional=True),
        model.text("model_type"),
        model.integer("num_hidden_layers", 1, MAX_LAYERS),
        shapes,
    )
    shape = head_shape(model, "head_dim", "head_dim")
    quantized = model.take("quantized_layers", list)
    if (
        quantized != list(shapes)
        or any(own != shape for own in shapes.values())
        or max(shapes) >= identity.num_hidden_layers
    ):
        raise CodebookError(
            "model and layers contradict each other in layers, heads or head sizes. Download or calibrate the "
            "codebook again."
        )
    return identity


_CALIBRATION_0_1 = ("layer_bits", "recipe", "sequence_length", "num_tokens", "num_samples", "num_iterations", "seed")
"""Options of version 0.1 that only `calibrate` read."""
_DEFAULTS_0_1 = {"residual_length": 128, "sink_length": 4, "sink_choice": SMALL_VALUES, "ops_backend": "auto",
                 "static": False, "key_bits": 2, "value_bits": 2}  # fmt: skip
"""Version 0.1 wrote these values also where nothing was asked for."""


def cache_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a VecInferConfig in a dictionary of version 0.1, and any other dictionary as it is."""
    moved = [name for name in _CALIBRATION_0_1 if name in options]
    if not moved:
        return options
    if len(moved) < len(_CALIBRATION_0_1):
        raise ConfigError(f"{moved} are options of a CalibrationConfig; a VecInferConfig only says how a cache runs.")
    # A growing cache had no use for max_cache_len then.
    dropped = {*moved, *(() if options.get("static") else ("max_cache_len",))}
    kept = {name: value for name, value in options.items() if name not in dropped}
    return {name: value for name, value in kept.items() if _DEFAULTS_0_1.get(name, ...) != value}
