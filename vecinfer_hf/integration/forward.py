# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The attention function and mask registered with transformers as "vecinfer".

Owns the choice of path for each call: exact for a first prompt, fused over codes for a few tokens, in blocks for many.
For any other cache it is SDPA.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..attention.chunked_prefill import chunked_prefill_attention
from ..attention.chunked_prefill import supports as chunked_prefill_supports
from ..attention.full_precision import full_precision_attention
from ..cache.layer import CacheHandle, VecInferLayer
from ..errors import UnsupportedMaskError
from ..ops.blockwise import SCORE_ELEMENTS, Block, blockwise_attention
from ..ops.to_device import to_device


def vecinfer_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor | CacheHandle,
    value: torch.Tensor | CacheHandle,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Return the attention output of one layer, in transformers' attention interface.

    Args:
        module: the attention module.
        query: `[B, Hq, Tq, D]` after RoPE.
        key: the handle that `VecInferLayer.update` returned, or plain keys `[B, Hkv, T, D]` of any other cache.
        value: likewise.
        attention_mask: bool `[B, 1, Tq, T]`, or None for plain causal attention.
        scaling: softmax scale; default `D**-0.5`.
        dropout: attention dropout, only for plain keys.
        softcap: softcap of the scaled scores, or None.
        s_aux: attention sinks `[Hq]` (GPT-OSS), or None.
        sliding_window: refused for a layer that holds codes.
        kwargs: passed on to SDPA for plain keys.

    Returns:
        `[B, Tq, Hq, D]` and None (attention weights are never formed).
    """
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    if not isinstance(key, CacheHandle):
        output = full_precision_attention(
            module, query, key, value, attention_mask, scaling, softcap, s_aux, dropout=dropout, **kwargs
        )
        return output, None
    layer, new_keys, new_values = key.layer, key.states, value.states
    if sliding_window is not None:
        raise ValueError(
            f"Layer {layer.layer_idx} attends over a sliding window of {sliding_window} tokens but has a cache for "
            "full attention; this model's config and its attention disagree. Use the stock cache for it."
        )
    queries = query.shape[2]
    if torch.compiler.is_compiling() and layer.is_compileable and queries == 1 and layer.fits_window(1):
        # A single token in a compiled forward is generate's decode step: it is real in every row, and the mask says
        # nothing that the layer's lengths do not.
        layer.append_compiled(new_keys, new_values)
        output = layer.decode_attention_compiled(query, scaling, softcap or 0.0, s_aux)
        return output.transpose(1, 2).contiguous(), None
    output = _eager_attention(module, query, layer, new_keys, new_values, attention_mask, scaling, softcap, s_aux)
    return output, None


@torch.compiler.disable
def _eager_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    layer: VecInferLayer,
    new_keys: torch.Tensor,
    new_values: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    softcap: float | None,
    s_aux: torch.Tensor | None,
) -> torch.Tensor:
    """Store the new tokens and attend, on a path chosen by what the host knows: `[B, Tq, Hq, D]`."""
    queries = query.shape[2]
    past = layer.past_columns(queries)
    try:
        real = layer.shared.padding.observe(attention_mask, query.shape[0], past, queries)
    except UnsupportedMaskError:
        # Nothing was stored, so the cache goes on as it was before this call.
        layer.forget_update(queries)
        raise
    if past == 0:
        if attention_mask is not None:
            # The mask of a static cache is as wide as the cache.
            attention_mask = attention_mask[..., :queries]
        output = full_precision_attention(module, query, new_keys, new_values, attention_mask, scaling, softcap, s_aux)
        layer.store(new_keys, new_values, real, query)
        return output
    if real is None and layer.fits_window(queries):
        layer.store(new_keys, new_values)
        output, _ = layer.ops.decode_attention(
            query,
            layer.buffers,
            layer.layer_codebook,
            layer.residual_length,
            scaling,
            softcap or 0.0,
            s_aux,
        )
    else:
        output = _long_query_attention(query, layer, new_keys, new_values, real, scaling, softcap, s_aux)
        layer.store(new_keys, new_values, real)
    return output.transpose(1, 2).contiguous()


def _long_query_attention(
    query: torch.Tensor,
    layer: VecInferLayer,
    new_keys: torch.Tensor,
    new_values: torch.Tensor,
    real: torch.Tensor | None,
    scaling: float,
    softcap: float | None,
    s_aux: torch.Tensor | None,
) -> torch.Tensor:
    """Attend from many new tokens to the stored ones, block by block, and exactly to each other: `[B, Hq, Tq, D]`."""
    if real is None and chunked_prefill_supports(query, layer, softcap):
        return chunked_prefill_attention(query, layer, new_keys, new_values, scaling, s_aux)
    queries, device = query.shape[2], query.device
    before = layer.buffers.lengths.long().unsqueeze(1)
    if real is None:
        query_index = before + torch.arange(queries, device=device)
        new_index = query_index
    else:
        real = to_device(real, device)
        # A padding token stands at its predecessor's place as a query and nowhere as a key.
        query_index = before + real.long().cumsum(1) - 1
        new_index = torch.where(real, query_index, -1)

    def blocks() -> Iterator[Block]:
        yield from layer.blocks()
        yield Block(new_keys, new_values, new_index)

    outputs = []
    step = max(1, SCORE_ELEMENTS // (query.shape[0] * query.shape[1] * max(queries, 4096)))
    for start in range(0, queries, max(step, 64)):
        part = slice(start, start + max(step, 64))
        output, _ = blockwise_attention(
            query[:, :, part], blocks(), query_index[:, part], scaling, softcap or 0.0, s_aux
        )
        outputs.append(output)
    return torch.cat(outputs, dim=2).to(query.dtype)
