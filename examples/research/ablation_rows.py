# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of the ablation: which options of calibration each turns on, and the transforms that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vecinfer_hf.calibration.fit import SideTransform
from vecinfer_hf.calibration.gradients import GradientStates
from vecinfer_hf.calibration.loss_transform import loss_transform
from vecinfer_hf.calibration.special_tokens import SEPARATOR_FRACTION
from vecinfer_hf.config import FIRST, SMALL_VALUES
from vecinfer_hf.quantization.smooth_scale import key_statistics


@dataclass(frozen=True)
class Row:
    """One combination of options.

    Args:
        name: as the table shows it.
        key: scale of the keys: "paper", "centred" (the paper's on keys less their mean), "query", or "loss" (the full
            matrix of the gradients).
        value: "plain" or "loss".
        weighted: k-means weights tokens by what their errors cost.
        allocated: bits go to layers, keys and values where they matter; else all have the same.
        recall: share of the text that asks for facts in it.
        separators: share of the windows with special tokens in their midst.
        steps: of refinement.
        sink_choice: see `VecInferConfig.sink_choice`.
    """

    name: str
    key: str = "paper"
    value: str = "plain"
    weighted: bool = False
    allocated: bool = False
    recall: float = 0.0
    separators: float = 0.0
    steps: int = 0
    sink_choice: str = FIRST


RECALL, STEPS = 0.5, 60
_LOSS = Row("loss matrices, weighted", "loss", "loss", weighted=True)
_ALL = replace(
    _LOSS,
    name="all",
    allocated=True,
    recall=RECALL,
    separators=SEPARATOR_FRACTION,
    steps=STEPS,
    sink_choice=SMALL_VALUES,
)
ROWS = (
    Row("paper"),
    Row("paper + weighted k-means", weighted=True),
    Row("paper + chosen sinks", sink_choice=SMALL_VALUES),
    Row("paper + centred keys", key="centred"),
    Row("paper + query-aware scale", key="query"),
    Row("paper + loss matrices for keys", key="loss"),
    Row("paper + loss matrices for values", value="loss"),
    Row("paper + allocation", allocated=True),
    Row("paper + refinement", steps=STEPS),
    Row("paper + refinement on text with recall", recall=RECALL, steps=STEPS),
    replace(_LOSS, name="loss matrices for both", weighted=False),
    _LOSS,
    replace(_LOSS, name="loss matrices, weighted, recall", recall=RECALL),
    replace(_LOSS, name="loss matrices, weighted, separators", separators=SEPARATOR_FRACTION),
    replace(_LOSS, name="loss matrices, weighted, allocation", allocated=True),
    replace(_ALL, name="all but recall", recall=0.0),
    replace(_ALL, name="all but separators", separators=0.0),
    replace(_ALL, name="all but chosen sinks", sink_choice=FIRST),
    replace(_ALL, name="all but refinement", steps=0),
    replace(_ALL, name="all but allocation", allocated=False),
    _ALL,
)


def row_transforms(states: GradientStates, subvector_dim: int, row: Row) -> tuple[SideTransform, SideTransform]:
    """Return the transforms of a layer's keys and values in a row."""
    if row.key == "loss":
        key = SideTransform(*loss_transform(states.keys, states.key_fisher, subvector_dim, True))
    else:
        keys = states.keys.float()
        mean, absmax = None, states.key_absmax
        if row.key == "centred":
            mean = keys.mean(1)
            absmax = (keys - mean.unsqueeze(1)).abs().amax(1)
        recipe = "query" if row.key == "query" else "paper"
        found, scale = key_statistics(keys, absmax, states.query_moment, recipe)
        key = SideTransform(found if mean is None else mean, 1 / scale, scale)
    if row.value == "loss":
        return key, SideTransform(*loss_transform(states.values, states.value_fisher, subvector_dim, False))
    return key, SideTransform(None, None, None)
