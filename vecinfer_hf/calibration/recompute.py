# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Gradient checkpointing of layers, where the activations of a backward pass would not fit into memory.

Owns the estimate of the memory, the decision and the switch.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from ..distributed.devices import computing_device
from ..distributed.heads import on_any_process
from ..model_info import head_shape, text_config


logger = logging.get_logger(__name__)

_USABLE = 0.6
"""Fraction of the free memory that activations may take; the rest is for logits, gradients and fragmentation."""
_HIDDEN_ARRAYS, _HEAD_ARRAYS, _MLP_ARRAYS = 10, 6, 4
"""Arrays of a layer that are kept for its backward pass, as wide as the hidden state, as all heads and as the MLP."""
_SCORE_BYTES = {"softcap": 12, "sinks": 8}
"""Bytes kept for each query, key and head where attention is plain torch (full_precision.py)."""


def activation_bytes(model: PreTrainedModel, batch_size: int, tokens: int, bytes_per_element: int) -> int:
    """Return roughly the bytes that a forward pass of `[batch_size, tokens]` over doubled keys keeps for backward."""
    has_sinks = any(name.endswith(".sinks") for name, _ in model.named_parameters())
    # Keys are there twice, and attention turns its mask into numbers in every layer anew.
    pairs, total = 2 * tokens * tokens, 0
    for config in text_config(model.config).per_layer_config:
        heads, hidden, head_dim = config.num_attention_heads, config.hidden_size, max(head_shape(config)[1:])
        width = _HIDDEN_ARRAYS * hidden + _HEAD_ARRAYS * heads * head_dim + _MLP_ARRAYS * _mlp_width(config)
        total += batch_size * tokens * width * bytes_per_element + pairs * bytes_per_element
        if getattr(config, "attn_logit_softcapping", None):
            total += batch_size * heads * pairs * _SCORE_BYTES["softcap"]
        elif has_sinks:
            total += batch_size * heads * pairs * _SCORE_BYTES["sinks"]
    return total


def _mlp_width(config) -> int:
    """Elements of an MLP's inner state for one token, in all experts it goes through."""
    width = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    width = max(width) if isinstance(width, (list, tuple)) else width
    return width * (getattr(config, "num_experts_per_tok", None) or 1)


@contextmanager
def recomputed_if_needed(model: PreTrainedModel, batch_size: int, tokens: int, bytes_per_element: int):
    """Compute layers' activations a second time in a backward pass inside the block, if they would not fit.

    It takes a third more time and gives the same gradients. Both passes have to be inside the block, and inside the
    same `attention_function`. Only transformers' `GradientCheckpointingLayer`s are computed twice.

    Args:
        model: the model, as it was afterwards.
        batch_size: texts per pass.
        tokens: tokens per text.
        bytes_per_element: of the activations.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    needed = activation_bytes(model, batch_size, tokens, bytes_per_element)
    usable = _USABLE * free_bytes(computing_device(model))
    # Layers talk to those of other processes, which must run them equally often.
    if not layers or not on_any_process(needed > usable, model):
        yield
        return
    logger.warning_once(
        f"vecinfer: activations of {batch_size} x {tokens} tokens would take about {needed / 1e9:.1f} GB, for which "
        f"{usable / 1e9:.1f} GB are free; they are computed twice instead, which takes a third more time."
    )
    # Not by the layers' own switch, which asks for training mode, in which some layers drop activations at random.
    before = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            if forward is None:
                vars(layer).pop("forward", None)
            else:
                layer.forward = forward


def recomputed_bytes(model: PreTrainedModel, batch_size: int, tokens: int, bytes_per_element: int) -> int:
    """Return roughly the bytes of the same pass if layers are computed twice: every layer's input, and one layer.

    Models without layers that can be computed twice keep everything.
    """
    whole = activation_bytes(model, batch_size, tokens, bytes_per_element)
    if not any(isinstance(module, GradientCheckpointingLayer) for module in model.modules()):
        return whole
    config = text_config(model.config)
    inputs = batch_size * tokens * config.hidden_size * bytes_per_element * config.num_hidden_layers
    # Its gradients are there at the same time.
    return inputs + 2 * whole // config.num_hidden_layers


def free_bytes(device: torch.device) -> float:
    """Return the bytes that this process may still allocate on a device, as far as the limits set for it say."""
    if device.type == "cuda":
        # What the allocator holds and does not use is free, too.
        reserved = torch.cuda.memory_reserved(device)
        free, total = torch.cuda.mem_get_info(device)
        allowed = torch.cuda.get_per_process_memory_fraction(device) * total - reserved
        return min(free, allowed) + reserved - torch.cuda.memory_allocated(device)
    return min(psutil.virtual_memory().available, _container_bytes())


def _container_bytes(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that a container's limit leaves, infinity without one."""
    try:
        limit, used = ((root / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return int(limit) - int(used)
    except (OSError, ValueError):  # no such files, or the limit is "max"
        return float("inf")
