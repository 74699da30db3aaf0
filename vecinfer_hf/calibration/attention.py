# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Run a model with another attention function for a while, which reads and changes queries, keys and values.

Owns the temporary registration. Functions compute attention with `plain_attention`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import contextmanager

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from ..attention.full_precision import full_precision_attention
from ..distributed.devices import computing_device
from ..model_info import sharing_layers, text_config


_NAME = "vecinfer-calibration"
_LOCK = threading.RLock()
"""Held while `_NAME` stands for a function: transformers has one registry for all models and threads."""
_sources: dict[int, int] = {}
"""Inside a block: layer that shares keys and values -> the layer that has them."""


@contextmanager
def attention_function(model: PreTrainedModel, function: Callable):
    """Let every attention layer of `model` call `function` inside the `with` block, and its own attention afterwards.

    Another thread waits until the block ends.

    Args:
        model: a model whose attention goes through transformers' attention interface.
        function: `(module, query, key, value, attention_mask, scaling, **kwargs) -> [B, T, Hq, Dv]`, with queries
            `[B, Hq, T, Dk]` and keys `[B, Hkv, T, Dk]` after RoPE, values `[B, Hkv, T, Dv]`, a bool mask or None for
            causal.
    """

    def forward(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        if scaling is None:
            scaling = query.shape[-1] ** -0.5
        return function(module, query, key, value, attention_mask, scaling, **kwargs), None

    config = text_config(model.config)
    nested = [name for name in model.config.sub_configs if getattr(model.config, name, None) is config]
    with _LOCK:
        before, registered = config._attn_implementation, AttentionInterface().get(_NAME, _ended)
        outer_sources = dict(_sources)
        _sources.clear()
        _sources.update(sharing_layers(config))
        AttentionInterface.register(_NAME, forward)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        try:
            model.set_attn_implementation(dict.fromkeys(nested, _NAME) if nested else _NAME)
            yield
        finally:
            # Registered for good, `forward` would keep what its function holds.
            AttentionInterface.register(_NAME, registered)
            _sources.clear()
            _sources.update(outer_sources)
            model.set_attn_implementation(dict.fromkeys(nested, before) if nested else before)


def storing_layer(module: torch.nn.Module) -> int | None:
    """Return the index of the layer whose keys and values an attention module reads; None outside a language model."""
    index = getattr(module, "layer_idx", None)
    return _sources.get(index, index)


def _ended(*args, **kwargs):
    """Stand for `_NAME` outside every block."""
    raise RuntimeError("A model still has calibration's attention; call model.set_attn_implementation with its own.")


def plain_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs,
) -> torch.Tensor:
    """Return attention in full precision, `[B, T, Hq, Dv]`; arguments as `attention_function` passes them."""
    return full_precision_attention(module, query, key, value, attention_mask, scaling, softcap, s_aux)


def run_body(
    model: PreTrainedModel, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the last hidden state `[B, T, hidden]`; the logits, often the largest product of all, are not formed.

    Args:
        model: the model.
        input_ids: int64 `[B, T]`, on any device.
        position_ids: int64 `[1, T]` on the model's device, or None to start at 0.
    """
    ids = input_ids.to(computing_device(model))
    # Llama 4's language model does not say where its body is.
    body = model.model if model.base_model is model and hasattr(model, "lm_head") else model.base_model
    return body(input_ids=ids, position_ids=position_ids, use_cache=False).last_hidden_state


def shifted_positions(
    length: int, max_position: int | None, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """Return positions int64 `[1, length]` from a random start, so that they end before `max_position`.

    Args:
        length: tokens.
        max_position: end of the range; None, or less than `length`, for a start at 0.
        generator: draws the start, also where only one is possible.
        device: device of the result.
    """
    start = int(torch.randint(max(1, (max_position or 0) - length + 1), (1,), generator=generator))
    return torch.arange(start, start + length, device=device).unsqueeze(0)
