# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Description: what a codebook's config.json says, in format 2. format_1.py reads the format before it.

Owns the fields of config.json and their rules. tensors.py owns codebook.safetensors, files.py the pair of files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..calibration_config import CalibrationConfig
from ..errors import CodebookError, ConfigError
from ..model_info import HeadShape, ModelIdentity
from .fields import Fields


if TYPE_CHECKING:
    from .tensors import LayerForm

FORMAT_VERSION = 2
MAX_LAYERS, MAX_HEADS, MAX_HEAD_DIM = 4096, 4096, 1024
"""The largest model that a config.json may name."""
DEEPEST = 16
"""Levels to which provenance and metrics may be nested."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Description:
    """What config.json says.

    Args:
        config: how the codebook was made.
        identity: the model that it belongs to.
        sha256: of codebook.safetensors, 64 hexadecimal digits; None in format 1, which has none.
        weights_fingerprint: of the model's weights, or None.
        provenance: how it was made: texts, dates, versions, errors per layer; a JSON object.
        metrics: measured quality; a JSON object.
        promised: layer index -> the form of its tensors, which format 1 wrote down as well; empty in format 2.
    """

    config: CalibrationConfig
    identity: ModelIdentity
    sha256: str | None
    weights_fingerprint: str | None
    provenance: dict[str, Any]
    metrics: dict[str, Any]
    promised: Mapping[int, LayerForm] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the content of config.json in format 2.

        Raises:
            CodebookError: if a field breaks its rule, for example because provenance is no JSON.
        """
        data = {
            "format_version": FORMAT_VERSION,
            "model": self.identity.to_dict(),
            "calibration_config": self.config.to_dict(),
            "weights_fingerprint": self.weights_fingerprint,
            "tensors": {"sha256": self.sha256},
            "provenance": self.provenance,
            "metrics": self.metrics,
        }
        try:
            content = (json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode("utf-8")
        except (TypeError, ValueError, RecursionError) as error:
            raise CodebookError(
                f"Provenance and metrics of a codebook must be JSON values without NaN and infinity ({error}); leave "
                "out what is none."
            ) from error
        description_from_dict(json.loads(content))
        return content


def description_from_dict(data: dict[str, Any]) -> Description:
    """Return the description that `to_json` wrote.

    Raises:
        CodebookError: for a field that is missing, unknown or breaks a rule.
    """
    top = Fields("", data)
    top.take("format_version", int)
    tensors = Fields("tensors", top.take("tensors", dict))
    sha256 = tensors.text("sha256")
    if not _SHA256.fullmatch(sha256):
        raise CodebookError(f"tensors.sha256 is {sha256[:80]!r}; it must be 64 hexadecimal digits. Calibrate again.")
    tensors.finish()
    description = Description(
        calibration_config(top.take("calibration_config", dict)),
        _identity(top.take("model", dict)),
        sha256,
        top.text("weights_fingerprint", optional=True),
        free_form(top, "provenance"),
        free_form(top, "metrics"),
    )
    top.finish()
    return description


def calibration_config(options: dict[str, Any]) -> CalibrationConfig:
    """Return the CalibrationConfig; CodebookError for an option that is unknown or breaks a rule."""
    try:
        return CalibrationConfig.from_dict(options)
    except ConfigError as error:
        raise CodebookError(f"calibration_config cannot be used: {error} Else calibrate again.") from error


def free_form(top: Fields, name: str) -> dict[str, Any]:
    """Return provenance or metrics: an object of any content, nested at most 16 levels deep; {} if there is none."""
    found = top.optional(name, dict) or {}
    level: list[Any] = [found]
    for _ in range(DEEPEST):
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [value for values in inner for value in values if isinstance(value, (dict, list))]
    if level:
        raise CodebookError(f"{name} is nested deeper than {DEEPEST} levels; remove what it does not need.")
    return found


def _identity(data: dict[str, Any]) -> ModelIdentity:
    model = Fields("model", data)
    num_hidden_layers = model.integer("num_hidden_layers", 1, MAX_LAYERS)
    shapes: dict[int, HeadShape] = {}
    keys_from_values = set()
    for position, entry in enumerate(model.take("layers", list)):
        layer = Fields(f"model.layers[{position}]", entry)
        index = layer.integer("index", 0, num_hidden_layers - 1)
        if index in shapes:
            raise CodebookError(f"model.layers has the layer {index} twice. Download or calibrate the codebook again.")
        shapes[index] = head_shape(layer, "key_head_dim", "value_head_dim")
        if layer.take("keys_from_values", bool):
            keys_from_values.add(index)
        layer.finish()
    if not shapes:
        raise CodebookError("model.layers is empty; a codebook needs at least one layer. Calibrate again.")
    identity = ModelIdentity(
        model.text("name"),
        model.text("revision", optional=True),
        model.text("model_type"),
        num_hidden_layers,
        dict(sorted(shapes.items())),
        frozenset(keys_from_values),
    )
    model.finish()
    return identity


def head_shape(layer: Fields, key_head_dim: str, value_head_dim: str) -> HeadShape:
    """Return the head shape of a layer's entry, whose head sizes have these names."""
    heads = layer.integer("num_key_value_heads", 1, MAX_HEADS)
    key_dim = layer.integer(key_head_dim, 1, MAX_HEAD_DIM)
    value_dim = key_dim if value_head_dim == key_head_dim else layer.integer(value_head_dim, 1, MAX_HEAD_DIM)
    return HeadShape(heads, key_dim, value_dim)
