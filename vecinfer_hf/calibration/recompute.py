# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Backward passes that fit: where activations of all layers would not, each layer's are computed again.

Owns the decision and the switch, which is transformers' gradient checkpointing with the layers' submodules left in
evaluation mode.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial

import psutil
import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from ..model_identity import text_config


logger = logging.get_logger(__name__)

_USABLE = 0.6
"""Share of the free memory that activations may take; the rest is for logits, gradients and what fragments."""
_HIDDEN_ARRAYS, _MLP_ARRAYS = 12, 4
"""Arrays of a layer that are kept for its backward pass, as wide as the hidden state and as the MLP."""


def activation_bytes(model: PreTrainedModel, batch_size: int, tokens: int, bytes_per_element: int) -> int:
    """Return about how much a forward pass of `[batch_size, tokens]` over doubled keys keeps for its backward pass."""
    config = text_config(model.config)
    hidden = config.hidden_size
    width = _HIDDEN_ARRAYS * hidden + _MLP_ARRAYS * (getattr(config, "intermediate_size", None) or 4 * hidden)
    # Attention turns its mask of every query and doubled key into numbers, in every layer anew.
    per_layer = batch_size * tokens * width + 2 * tokens * tokens
    return config.num_hidden_layers * per_layer * bytes_per_element


@contextmanager
def recomputed_if_needed(model: PreTrainedModel, batch_size: int, tokens: int, bytes_per_element: int):
    """Compute layers' activations a second time in a backward pass inside the block, if they would not fit.

    It takes a third more time and gives the same gradients. Both passes have to be inside the block, and inside the
    same `attention_function`.

    Args:
        model: the model; its mode of training or evaluation is as before afterwards.
        batch_size: texts per pass.
        tokens: tokens per text.
        bytes_per_element: of the activations.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    needed = activation_bytes(model, batch_size, tokens, bytes_per_element)
    if not layers or needed <= _USABLE * _free_bytes(model.device):
        yield
        return
    logger.warning_once(
        f"vecinfer: activations of {batch_size} x {tokens} tokens would take about {needed / 1e9:.1f} GB, more than "
        "is free; they are computed twice instead, which takes a third more time."
    )
    names = ("gradient_checkpointing", "training", "_gradient_checkpointing_func")
    before = [{name: vars(layer)[name] for name in names if name in vars(layer)} for layer in layers]
    try:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = True
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            for name in names:
                vars(layer).pop(name, None)
            vars(layer).update(old)


def _free_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return psutil.virtual_memory().available
    # What the allocator holds and does not use is free, too.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
