# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Run a model with another attention function for a while: how calibration sees and changes keys and values.

Owns the temporary registration. The function decides what to do; `full_precision_attention` is what it delegates to.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from ..attention.full_precision import full_precision_attention
from ..model_info import text_config


_NAME = "vecinfer-calibration"


@contextmanager
def attention_function(model: PreTrainedModel, function: Callable):
    """Let every attention layer of `model` call `function` inside the `with` block, and its own attention afterwards.

    Args:
        model: a model whose attention goes through transformers' attention interface.
        function: `(module, query, key, value, attention_mask, scaling, **kwargs) -> [B, T, Hq, D]`, with queries
            `[B, Hq, T, D]` and keys after RoPE, keys and values `[B, Hkv, T, D]`, a bool mask or None for causal.
    """

    def forward(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        if scaling is None:
            scaling = query.shape[-1] ** -0.5
        return function(module, query, key, value, attention_mask, scaling, **kwargs), None

    AttentionInterface.register(_NAME, forward)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    config = text_config(model.config)
    before = config._attn_implementation
    nested = [name for name in model.config.sub_configs if getattr(model.config, name, None) is config]
    try:
        model.set_attn_implementation(dict.fromkeys(nested, _NAME) if nested else _NAME)
        yield
    finally:
        model.set_attn_implementation(dict.fromkeys(nested, before) if nested else before)


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
    """Return the unquantized attention output `[B, T, Hq, D]`."""
    return full_precision_attention(module, query, key, value, attention_mask, scaling, softcap, s_aux)


def run_body(model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
    """Return the last hidden state `[B, T, hidden]`; the logits, often the largest product of all, are not formed."""
    return model.base_model(input_ids=input_ids.to(model.device), use_cache=False).last_hidden_state
