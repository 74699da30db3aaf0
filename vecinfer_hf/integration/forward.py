# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The attention function registered with transformers as "vecinfer".

A layer of codes attends by itself (cache/layer.py); for plain keys, of any other cache, this is SDPA.
"""

from __future__ import annotations

from typing import Any

import torch

from ..attention.full_precision import full_precision_attention
from ..attention.masks import check_mask_shape
from ..cache.forward_pass import pass_of
from ..cache.handle import CacheHandle
from ..errors import UnsupportedCallError


_IGNORED = (
    "cache_position",
    "num_items_in_batch",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "position_embeddings",
    "position_ids",
    "return_dict",
    "use_cache",
)
"""Keywords of models' forward passes that reach attention functions and change nothing in them."""
_SDPA = ("cu_seq_lens_k", "cu_seq_lens_q", "is_causal", "max_length_k", "max_length_q", "seq_idx")
"""Keywords that transformers' SDPA takes or ignores for plain keys."""


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
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention output of one layer, in transformers' attention interface.

    Args:
        module: the attention module.
        query: `[B, Hq, Tq, Dk]` after RoPE.
        key: the handle that `VecInferLayer.update` returned, or plain keys `[B, Hkv, T, Dk]` of any other cache.
        value: likewise.
        attention_mask: bool `[B, 1, Tq, T]`, or None for plain causal attention.
        scaling: softmax scale; default `Dk**-0.5`.
        dropout: attention dropout; refused for a layer that holds codes.
        softcap: softcap of the scaled scores, or None.
        s_aux: learned sink logits `[Hq]` (GPT-OSS), or None.
        sliding_window: refused for a layer that holds codes; plain keys are masked by transformers, and a sliding
            layer of a paged cache (sliding_rows.py) masks its own.
        kwargs: what else models pass. A keyword that would change the result and is not None is refused.

    Returns:
        `[B, Tq, Hq, Dv]` and None (attention weights are never formed).

    Raises:
        UnsupportedCallError: for a keyword that is not known.
        UnsupportedMaskError: see `VecInferLayer.attend`; of a sliding layer, for a mask of another shape.
        After either, a cache in which no layer of codes has stored yet is as it was before the call.
    """
    arguments = module, query, key, value, attention_mask, scaling, dropout, softcap, s_aux, sliding_window
    if torch.compiler.is_compiling():
        return _attend(*arguments, None, **kwargs), None
    forward_pass = key.layer.forward_pass if isinstance(key, CacheHandle) else pass_of(key)
    try:
        return _attend(*arguments, forward_pass, **kwargs), None
    except UnsupportedCallError:
        if forward_pass is not None:
            forward_pass.abandon()
        raise


def _attend(
    module, query, key, value, attention_mask, scaling, dropout, softcap, s_aux, sliding_window, forward_pass, **kwargs
) -> torch.Tensor:
    """Return the output of `vecinfer_attention_forward`; `forward_pass` is that of a VecInferCache, or None."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    holds_codes = isinstance(key, CacheHandle)
    known = _IGNORED if holds_codes else _IGNORED + _SDPA
    for name, given in kwargs.items():
        if given is not None and name not in known and not (name == "is_causal" and given is True):
            raise UnsupportedCallError(
                f'{type(module).__name__} passes {name} to its attention, which "vecinfer" attention does not know. '
                "Use another attention implementation and the default cache for this model."
            )
    if not holds_codes:
        if forward_pass is not None and attention_mask is not None:
            check_mask_shape(attention_mask, query, key)
        passed = {name: given for name, given in kwargs.items() if name not in _IGNORED}
        return full_precision_attention(
            module, query, key, value, attention_mask, scaling, softcap, s_aux, dropout=dropout, **passed
        )
    layer = key.layer
    if sliding_window != getattr(layer, "sliding_window", None):
        raise UnsupportedCallError(
            f"Layer {layer.layer_idx} attends over a sliding window of {sliding_window} tokens but has a cache for "
            "full attention; this model's config and its attention disagree. Use the default cache for it."
        )
    if dropout:
        raise UnsupportedCallError(
            f"Attention dropout of {dropout} is not supported over a VecInfer cache; call model.eval(), or train with "
            "the default cache."
        )
    return layer.attend(module, query, key.states, value.states, attention_mask, scaling, softcap, s_aux)
