# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What callers ask of rows and columns, checked before anything changes: crops, repeats, selections."""

from __future__ import annotations

import operator

import torch
from transformers.cache_utils import CacheLayerMixin, LinearAttentionCacheLayerMixin

from ..errors import UnsupportedCallError


def check_crop(tokens_to_remove: int) -> int:
    """Return the number of tokens that `crop` takes, as an int.

    Raises:
        UnsupportedCallError: for a positive number, or for something else.
    """
    try:
        amount = operator.index(tokens_to_remove)
    except (TypeError, RuntimeError, ValueError):
        amount = None
    if amount is None or amount > 0 or isinstance(tokens_to_remove, bool):
        raise UnsupportedCallError(
            f"crop({tokens_to_remove}) is not supported: pass the negative number of tokens to remove, or 0."
        )
    return amount


def check_layer_crop(layer: CacheLayerMixin, index: int, tokens_to_remove: int) -> None:
    """Raise UnsupportedCallError if layer `index` cannot lose that many columns."""
    if tokens_to_remove == 0:
        return
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        _check_state_crop(layer, index, -tokens_to_remove)
    if hasattr(layer, "storage") or not isinstance(layer, CacheLayerMixin):
        return
    window, length = getattr(layer, "sliding_window", None), int(layer.get_seq_length())
    kept = layer.is_croppable
    if kept and window is not None:
        if getattr(layer, "record_past", False):
            # An earlier crop may have left no more than the window.
            left = length + tokens_to_remove
            kept = layer.keys.shape[2] + tokens_to_remove >= min(left, window - 1)
        else:
            kept = length < window
    if not kept:
        raise UnsupportedCallError(
            f"Layer {index} ({type(layer).__name__}) does not keep what {-tokens_to_remove} removed columns were "
            "computed from, so it cannot be cropped. Call cache.reset(), or cache.activate_past_recording() before "
            "the calls that may have to be taken back, and crop once after them."
        )


def _check_state_crop(layer: LinearAttentionCacheLayerMixin, index: int, count: int) -> None:
    """Raise UnsupportedCallError unless layer `index` has recorded its state before the last `count` columns."""
    if any(layer.is_recurrent_states_initialized.values()):
        raise UnsupportedCallError(
            f"Layer {index} ({type(layer).__name__}) has a recurrent state, which cannot go back by {count} tokens, "
            "so the cache cannot be cropped. Call cache.reset(), or keep a copy.deepcopy of the cache."
        )
    for state, states in layer.conv_states.items():
        if states is not None and not (
            layer.record_past and states.shape[-1] - count >= layer.conv_kernel_size[state]
        ):
            raise UnsupportedCallError(
                f"Layer {index} ({type(layer).__name__}) has a convolution state that was not recorded before the "
                f"last {count} tokens, so the cache cannot be cropped. Call cache.reset(), or "
                "cache.activate_past_recording() before the calls that may have to be taken back."
            )


def check_repeats(repeats: int) -> int:
    """Return how often each row is repeated; raise UnsupportedCallError unless it is an integer of at least 1."""
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        raise UnsupportedCallError(f"Rows cannot be repeated {repeats} times; pass an integer of at least 1.")
    return repeats


def row_numbers(indices: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Return `indices` (integers, negative ones from the end, or bool `[B]`) as int64 from 0 on, where they are.

    Raises:
        UnsupportedCallError: for another dtype, no rows, or a row that is not there; on a GPU torch raises the last.
    """
    if indices.dtype == torch.bool and indices.shape == (batch_size,):
        rows = indices.nonzero().squeeze(1)
    elif indices.dtype == torch.bool or indices.is_floating_point() or indices.is_complex() or indices.dim() != 1:
        raise UnsupportedCallError(
            f"Rows are named by a list of integers or a bool mask of {batch_size} entries, not by {indices.dtype} "
            f"{tuple(indices.shape)}."
        )
    else:
        rows = torch.where(indices < 0, indices + batch_size, indices).long()
    if not len(rows):
        raise UnsupportedCallError("A cache without rows is of no use; call reset() to forget all rows.")
    if rows.device.type == "cpu" and ((rows < 0) | (rows >= batch_size)).any():
        raise UnsupportedCallError(f"Rows {indices.tolist()} were asked for, but the cache has {batch_size} rows.")
    return rows
