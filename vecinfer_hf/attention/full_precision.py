# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Attention over plain keys and values, for first prompts, calibration and other caches.

SDPA, and plain torch for what SDPA lacks: softcap and learned sink logits.
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
    softmax_scale: float,
    softcap: float | None = None,
    sink_logits: torch.Tensor | None = None,
    **kwargs,
) -> torch.Tensor:
    """Return attention `[B, Tq, Hq, Dv]`.

    Args:
        module: the attention module.
        query: `[B, Hq, Tq, Dk]`.
        key: `[B, Hkv, T, Dk]`.
        value: `[B, Hkv, T, Dv]`.
        attention_mask: bool `[B, 1, Tq, T]` (True = attend) or additive, or None for causal: query `i` of `Tq`
            sees the keys up to `T - Tq + i`.
        softmax_scale: factor on `q . k`.
        softcap: softcap of the scaled scores, or None.
        sink_logits: learned sink logits `[Hq]`, or None.
        kwargs: passed on to SDPA.
    """
    queries, tokens = query.shape[2], key.shape[2]
    if not softcap and sink_logits is None:
        if attention_mask is None and 1 < queries < tokens and kwargs.get("is_causal") is not False:
            # SDPA aligns its own causal mask to the first key.
            attention_mask = torch.ones(queries, tokens, dtype=torch.bool, device=query.device).tril(tokens - queries)
            attention_mask = attention_mask[None, None]
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=softmax_scale, **kwargs)[0]
    batch, query_heads, _, head_dim = query.shape
    kv_heads = key.shape[1]
    outputs = []
    step = max(1, SCORE_ELEMENTS // (batch * query_heads * tokens))
    for start in range(0, queries, step):
        rows = query[:, :, start : start + step].reshape(batch, kv_heads, -1, min(step, queries - start), head_dim)
        scores = (rows @ key.unsqueeze(2).transpose(-1, -2)).float() * softmax_scale
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
        if sink_logits is not None:
            logits = sink_logits.float().view(1, kv_heads, -1, 1, 1).expand(batch, -1, -1, scores.shape[3], 1)
            weights = torch.cat([scores, logits], dim=-1).softmax(-1)[..., :-1]
        else:
            weights = scores.softmax(-1)
        outputs.append((weights.to(value.dtype) @ value.unsqueeze(2)).flatten(1, 2))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()
