# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""ModelIdentity: the model that a codebook belongs to, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig

from .heads import HeadShape, head_shapes
from .layers import text_config


@dataclass(frozen=True)
class ModelIdentity:
    """The model that a codebook belongs to.

    Args:
        name: Hub id or directory; "" if it has none.
        revision: commit that it was loaded from, or None.
        model_type: transformers' type of the language model.
        num_hidden_layers: layers of the language model.
        layers: layer index -> HeadShape, for the layers with full attention.
        keys_from_values: those of them whose keys are a fixed function of their values (Gemma 4, `attention_k_eq_v`).
    """

    name: str
    revision: str | None
    model_type: str
    num_hidden_layers: int
    layers: Mapping[int, HeadShape] = field(hash=False)
    keys_from_values: frozenset[int] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """Return the identity as plain JSON values."""
        return {
            "name": self.name,
            "revision": self.revision,
            "model_type": self.model_type,
            "num_hidden_layers": self.num_hidden_layers,
            "layers": [
                {"index": index, **shape._asdict(), "keys_from_values": index in self.keys_from_values}
                for index, shape in sorted(self.layers.items())
            ],
        }


def model_identity(config: PreTrainedConfig) -> ModelIdentity:
    """Return what a codebook must agree with: type, layers, and the heads of those with full attention."""
    inner, shapes = text_config(config), head_shapes(config)
    return ModelIdentity(
        getattr(config, "_name_or_path", "") or "",
        getattr(config, "_commit_hash", None),
        inner.model_type,
        inner.num_hidden_layers,
        shapes,
        frozenset(shapes if getattr(inner, "attention_k_eq_v", False) else ()),
    )


def check_identity(codebook: ModelIdentity, model: ModelIdentity) -> str | None:
    """Return how the two identities differ in a way that forbids using the codebook, or None."""
    made_for = f"({codebook.name})" if codebook.name else "(a model without a name)"
    for name in ("model_type", "num_hidden_layers"):
        ours, theirs = getattr(codebook, name), getattr(model, name)
        if ours != theirs:
            return f"it was made for {name} {ours!r} {made_for}, the model has {theirs!r}"
    if set(codebook.layers) != set(model.layers):
        return (
            f"it covers layers {sorted(codebook.layers)}, the model's layers with full attention are "
            f"{sorted(model.layers)}"
        )
    for index, shape in codebook.layers.items():
        for name, ours, theirs in zip(HeadShape._fields, shape, model.layers[index], strict=True):
            if ours != theirs:
                return f"it was made for {name} {ours} in layer {index} {made_for}, the model has {theirs}"
    if codebook.keys_from_values != model.keys_from_values:
        return (
            f"it was made for keys that are a function of values in layers {sorted(codebook.keys_from_values)} "
            f"{made_for}, the model has them in layers {sorted(model.keys_from_values)}"
        )
    return None
