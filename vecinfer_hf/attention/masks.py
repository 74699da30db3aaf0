# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The mask function registered with transformers as "vecinfer": no mask where there is nothing to say.

A mask of many new tokens over a long cache takes gigabytes, and a cache row knows its own padding. Owns the decision
to leave the mask out; padding.py reads the masks that remain.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers.masking_utils import causal_mask_function, sdpa_mask

from ..errors import UnsupportedMaskError


NO_OFFSET = False
"""The mask offset that VecInfer layers report: it counts as 0, and tells their masks from those of other caches."""


def vecinfer_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    **kwargs,
) -> torch.Tensor | None:
    """Return the mask of a forward pass, or None if it is plain causal attention over real tokens.

    For other caches than VecInfer's, and for masks that say more, this is transformers' `sdpa_mask`.

    Args:
        batch_size: rows.
        q_length: new columns.
        kv_length: columns that the mask covers.
        q_offset: columns before the new ones.
        kv_offset: `NO_OFFSET` for a VecInfer layer, else the first column that the mask covers.
        mask_function: what transformers wants masked.
        attention_mask: bool `[batch_size, columns]`, the user's padding mask, or None.
        kwargs: passed on.

    Returns:
        None, or bool `[batch_size, 1, q_length, kv_length]`, True where attended.
    """
    if kv_offset is NO_OFFSET and mask_function is causal_mask_function:
        if attention_mask is None:
            return None
        # In a compiled graph values cannot be looked at; generate makes the masks of compiled steps outside.
        if not torch.compiler.is_compiling() and attention_mask.dim() == 2:
            columns = q_offset + q_length
            if isinstance(columns, torch.Tensor):
                # A static cache, whose length is on the device: one look at the device, not two.
                plain = attention_mask.all() & (columns <= attention_mask.shape[1])
            else:
                plain = attention_mask.shape[1] >= columns and attention_mask[:, :columns].all()
            if bool(plain):
                return None
    return sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        **kwargs,
    )


def check_mask_shape(attention_mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> None:
    """Raise UnsupportedMaskError unless a mask fits queries `[B, Hq, Tq, Dk]` and plain keys `[B, Hkv, T, Dk]`."""
    wanted = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    given = attention_mask.shape
    if len(given) != 4 or any(size not in (1, whole) for size, whole in zip(given, wanted, strict=True)):
        raise UnsupportedMaskError(
            f"The attention mask has shape {tuple(given)}; this layer, which attends over a sliding window, needs "
            f"[{wanted[0]}, 1, {wanted[2]}, {wanted[3]}]. Pass a mask of two dimensions, [batch, columns], or one for "
            'each type of layer: {"full_attention": ..., "sliding_attention": ...}.'
        )
