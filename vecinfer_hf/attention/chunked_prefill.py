# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Many new tokens against a long cache: torch's flash attention, part by part, merged by log-sum-exp.

For chunks of a prompt and for later turns without padding. What flash attention lacks (softcap, padding, other dtypes)
takes the float32 blocks of attention.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..cache.layer import VecInferLayer


CODE_BLOCK = 32768
"""Coded tokens that are dequantized at once: 134 MB of bfloat16 for 8 heads of 128, little beside one layer's MLP."""
QUERY_BLOCK = 16384
"""New tokens whose float32 output is held at once."""


def supports(query: torch.Tensor, layer: VecInferLayer, softcap: float | None) -> bool:
    """Return whether `chunked_prefill_attention` can serve these queries, given that all new tokens are real."""
    if softcap or len(set(layer.host_lengths()[0])) != 1 or len(set(layer.host_lengths()[1])) != 1:
        return False
    if query.device.type == "cuda":
        capability = torch.cuda.get_device_capability(query.device)
        return query.dtype in (torch.bfloat16, torch.float16) and capability >= (8, 0)
    return query.device.type == "cpu"


def chunked_prefill_attention(
    query: torch.Tensor,
    layer: VecInferLayer,
    new_keys: torch.Tensor,
    new_values: torch.Tensor,
    scaling: float,
    s_aux: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the attention of new tokens to the cache and, causally, to each other.

    Args:
        query: `[B, Hq, Tq, D]`.
        layer: the cache layer, which does not hold the new tokens yet.
        new_keys: `[B, Hkv, Tq, D]`.
        new_values: `[B, Hkv, Tq, D]`.
        scaling: softmax scale.
        s_aux: attention sinks `[Hq]`, or None.

    Returns:
        `[B, Hq, Tq, D]` in the dtype of `query`.
    """
    group = query.shape[1] // new_keys.shape[1]
    outputs = []
    for start in range(0, query.shape[2], QUERY_BLOCK):
        rows = query[:, :, start : start + QUERY_BLOCK].contiguous()
        end = start + rows.shape[2]
        # Flash attention of one piece needs as many heads on both sides; only the new tokens are repeated.
        keys, values = (states[:, :, start:end].repeat_interleave(group, dim=1) for states in (new_keys, new_values))
        output, lse = _flash(rows, keys, values, scaling, causal=True)
        output = output.float()
        for keys, values in _history(layer, new_keys[:, :, :start], new_values[:, :, :start]):
            # No key is in the future, so the query heads of one key/value head can stand behind each other as rows.
            part, part_lse = _flash(rows.reshape(*keys.shape[:2], -1, rows.shape[3]), keys, values, scaling)
            part, part_lse = part.reshape(rows.shape), part_lse.reshape(lse.shape)
            joint = torch.logaddexp(lse, part_lse)
            output.mul_(torch.exp(lse - joint).unsqueeze(-1))
            output.addcmul_(part.float(), torch.exp(part_lse - joint).unsqueeze(-1))
            lse = joint
        if s_aux is not None:
            # A logit without a value only takes weight from the others.
            output.mul_(torch.sigmoid(lse - s_aux.float().view(1, -1, 1)).unsqueeze(-1))
        outputs.append(output.to(query.dtype))
    return torch.cat(outputs, dim=2) if len(outputs) > 1 else outputs[0]


def _history(
    layer: VecInferLayer, earlier_keys: torch.Tensor, earlier_values: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield keys and values that every query sees: earlier new tokens, sinks and window, codes in blocks."""
    if earlier_keys.shape[2]:
        yield earlier_keys.contiguous(), earlier_values.contiguous()
    buffers = layer.buffers
    length, coded = (lengths[0] for lengths in layer.host_lengths())
    sinks = min(length, layer.sink_length)
    if length > coded:
        slots = torch.arange(coded, max(length - layer.sink_length, coded), device=layer.device)
        slots = slots % layer.residual_length
        yield (
            torch.cat([buffers.sink_keys[:, :, :sinks], buffers.window_keys.index_select(2, slots)], dim=2),
            torch.cat([buffers.sink_values[:, :, :sinks], buffers.window_values.index_select(2, slots)], dim=2),
        )
    for start in range(0, coded, CODE_BLOCK):
        count = min(CODE_BLOCK, coded - start)
        yield layer.ops.dequantize(buffers.codes, layer.layer_codebook, start, count, layer.dtype)


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, causal: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention `[B, H, Tq, D]` and its natural log-sum-exp, float32 `[B, H, Tq]`."""
    if query.device.type == "cuda":
        found = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, is_causal=causal, scale=scaling)
    else:
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, is_causal=causal, scale=scaling
        )
    return found[0], found[1].float()
