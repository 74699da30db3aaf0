# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`supported`: what a VecInfer cache would hold for a model, layer by layer, from its config alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedConfig, PreTrainedModel

from .heads import HeadShape, head_shapes
from .layers import CODES, LayerUse, layer_uses, text_config
from .probe import language_model, probe
from .refusals import code_reason, unsupported_model_reason, unsupported_reason
from .wrappers import unwrapped


@dataclass(frozen=True)
class Support:
    """What a VecInfer cache would hold. It is true if some layer would hold codes, and prints as a few lines.

    Args:
        model_type: transformers' type of the language model.
        reason: why the model cannot have such a cache; None if it can.
        layers: what each layer keeps; empty if there is a reason.
        heads: layer that keeps codes -> its heads.
        note: what could not be found out without weights; "" if nothing.
    """

    model_type: str
    reason: str | None
    layers: tuple[LayerUse, ...] = ()
    heads: tuple[tuple[int, HeadShape], ...] = ()
    note: str = ""

    def __bool__(self) -> bool:
        return bool(self.heads)

    def __str__(self) -> str:
        if self.reason is not None:
            return f"{self.model_type}: no VecInfer cache: {self.reason}."
        lines = [f"{self.model_type}: {len(self.heads)} of {len(self.layers)} layers keep codes"]
        for shape in dict.fromkeys(shape for _, shape in self.heads):
            indices = [index for index, own in self.heads if own == shape]
            lines.append(
                f"- layers {ranges(indices)}: {shape.num_key_value_heads} key/value heads, keys of "
                f"{shape.key_head_dim}, values of {shape.value_head_dim}"
            )
        for reason in dict.fromkeys(use.reason for use in self.layers if use.reason):
            indices = [use.index for use in self.layers if use.reason == reason]
            lines.append(f"- layers {ranges(indices)}: {reason}")
        return "\n".join([*lines, *([self.note] if self.note else [])])


def supported(model_or_config: PreTrainedModel | PreTrainedConfig) -> Support:
    """Return what a VecInfer cache would hold for a model.

    The config says what each layer keeps. The model's code is asked what its attention does with a cache, by a forward
    pass without weights (probe.py); nothing is downloaded or allocated.

    Args:
        model_or_config: the model, also inside a wrapper, or its config.
    """
    if isinstance(model_or_config, PreTrainedConfig):
        config, reason, note = model_or_config, *_by_config(model_or_config)
    else:
        model = unwrapped(model_or_config)
        config, reason, note = model.config, unsupported_model_reason(model), ""
    if reason is not None:
        return Support(config.model_type, reason)
    uses = layer_uses(config)
    if not any(use.keeps == CODES for use in uses):
        note = "Nothing would be quantized: no layer grows with the text."
    return Support(text_config(config).model_type, None, tuple(uses), tuple(head_shapes(config).items()), note)


def _by_config(config: PreTrainedConfig) -> tuple[str | None, str]:
    """Return the reason of `Support` and its note."""
    reason = unsupported_reason(config)
    if reason is not None:
        return reason, ""
    model_class, inner = language_model(config)
    if model_class is None:
        return None, f"transformers has no language model for {inner.model_type} configs, so no code was asked."
    if not model_class._can_set_attn_implementation():
        return f"{model_class.__name__} does not call its attention through transformers' attention interface", ""
    found = probe(model_class, inner)
    note = "" if found.failure is None else f"Its code could not be asked without weights ({found.failure})."
    return code_reason(model_class.__name__, config, found), note


def ranges(indices: Iterable[int]) -> str:
    """Return increasing numbers in few words: "0-2, 5"."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
