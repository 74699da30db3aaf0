# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Many new tokens against many stored ones: torch's flash attention, part by part, merged by log-sum-exp.

For chunks of a prompt and for later turns without padding. What flash attention lacks (softcap, padding, other dtypes,
values of another size, gradients) takes the float32 blocks of ops/blockwise.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch


QUERY_BLOCK = 16384
"""New tokens whose float32 output is held at once."""

Parts = Iterator[tuple[torch.Tensor, torch.Tensor]]
"""Keys `[B, Hkv, N, D]` and values `[B, Hkv, N, D]`, part by part."""


def serves_chunks(query: torch.Tensor, key_states: torch.Tensor, value_states: torch.Tensor) -> bool:
    """Return whether `chunked_prefill_attention` can serve these tensors (shapes as there)."""
    if key_states.shape[3] != value_states.shape[3]:
        return False
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key_states, value_states)):
        return False
    if query.device.type == "cuda":
        capability = torch.cuda.get_device_capability(query.device)
        return query.dtype in (torch.bfloat16, torch.float16) and capability >= (8, 0) and query.shape[3] <= 256
    return query.device.type == "cpu"


def chunked_prefill_attention(
    query: torch.Tensor,
    new_keys: torch.Tensor,
    new_values: torch.Tensor,
    stored: Callable[[], Parts],
    softmax_scale: float,
    sink_logits: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the attention of new tokens to all stored ones and, causally, to each other.

    Args:
        query: `[B, Hq, Tq, D]`.
        new_keys: `[B, Hkv, Tq, D]`.
        new_values: `[B, Hkv, Tq, D]`.
        stored: yields the stored keys and values in parts; it is called once per block of queries.
        softmax_scale: factor on `q . k`.
        sink_logits: `[Hq]`, or None.

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
        output, lse = flash(rows, keys, values, softmax_scale, causal=True)
        output = output.float()
        for keys, values in _seen_by_all(new_keys[:, :, :start], new_values[:, :, :start], stored):
            # No key is in the future, so the query heads of one key/value head can stand behind each other as rows.
            part, part_lse = flash(rows.reshape(*keys.shape[:2], -1, rows.shape[3]), keys, values, softmax_scale)
            part, part_lse = part.reshape(rows.shape), part_lse.reshape(lse.shape)
            joint = torch.logaddexp(lse, part_lse)
            output.mul_(torch.exp(lse - joint).unsqueeze(-1))
            output.addcmul_(part.float(), torch.exp(part_lse - joint).unsqueeze(-1))
            lse = joint
        if sink_logits is not None:
            # A logit without a value only takes weight from the others.
            output.mul_(torch.sigmoid(lse - sink_logits.float().view(1, -1, 1)).unsqueeze(-1))
        outputs.append(output.to(query.dtype))
    return torch.cat(outputs, dim=2) if len(outputs) > 1 else outputs[0]


def _seen_by_all(earlier_keys: torch.Tensor, earlier_values: torch.Tensor, stored: Callable[[], Parts]) -> Parts:
    """Yield keys and values that every query of a block sees: earlier new tokens, then the stored ones."""
    if earlier_keys.shape[2]:
        yield earlier_keys.contiguous(), earlier_values.contiguous()
    yield from stored()


def flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, softmax_scale: float, causal: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention `[B, H, Tq, D]` and its natural log-sum-exp, float32 `[B, H, Tq]`."""
    if query.device.type == "cuda":
        found = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, is_causal=causal, scale=softmax_scale
        )
    else:
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, is_causal=causal, scale=softmax_scale
        )
    return found[0], found[1].float()
