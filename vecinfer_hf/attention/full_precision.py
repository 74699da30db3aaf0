# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Unquantized attention for prompts, calibration and other caches: SDPA, and plain torch for what SDPA lacks.

Knows nothing of codes; attention.py chooses when to call it.
"""

from __future__ import annotations

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..ops.blockwise import SCORE_ELEMENTS


def full_precision_attention(
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
    """Return unquantized attention `[B, Tq, Hq, D]`: SDPA, or plain torch where SDPA lacks softcap and sinks.

    Args:
        module: the attention module.
        query: `[B, Hq, Tq, D]`.
        key: `[B, Hkv, T, D]`.
        value: `[B, Hkv, T, D]`.
        attention_mask: bool `[B, 1, Tq, T]` (True = attend) or additive, or None for causal.
        scaling: softmax scale.
        softcap: softcap of the scaled scores, or None.
        s_aux: attention sinks `[Hq]`, or None.
        kwargs: passed on to SDPA.
    """
    if not softcap and s_aux is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)[0]
    batch, query_heads, queries, head_dim = query.shape
    kv_heads, tokens = key.shape[1], key.shape[2]
    outputs = []
    step = max(1, SCORE_ELEMENTS // (batch * query_heads * tokens))
    for start in range(0, queries, step):
        rows = query[:, :, start : start + step].reshape(batch, kv_heads, -1, min(step, queries - start), head_dim)
        scores = (rows @ key.unsqueeze(2).transpose(-1, -2)).float() * scaling
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        if attention_mask is None:
            last = torch.arange(start, start + rows.shape[3], device=query.device) + tokens - queries
            hidden = torch.arange(tokens, device=query.device) > last.unsqueeze(1)
            scores = scores.masked_fill(hidden, float("-inf"))
        else:
            part = attention_mask[:, :, start : start + step, :tokens].unsqueeze(2)
            if part.dtype == torch.bool:
                scores = scores.masked_fill(~part, torch.finfo(scores.dtype).min)
            else:
                scores = scores + part
        if s_aux is not None:
            logits = s_aux.float().view(1, kv_heads, -1, 1, 1).expand(batch, -1, -1, scores.shape[3], 1)
            weights = torch.cat([scores, logits], dim=-1).softmax(-1)[..., :-1]
        else:
            weights = scores.softmax(-1)
        outputs.append((weights.to(value.dtype) @ value.unsqueeze(2)).flatten(1, 2))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()
