# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Refinement of a whole codebook against the model's predictions in full precision, by gradient.

Owns the optimizer; loss.py owns the objective, fake_quantization.py the quantized attention it differentiates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from ..config import SMALL_VALUES
from ..distributed.devices import computing_device, layer_devices
from ..distributed.heads import HeadShard, gather_heads, head_shard, process_group
from ..errors import ConfigError
from ..ops.types import LayerCodebook
from ..quantization.fake_quant import FakeQuantizer
from .attention import attention_function, plain_attention, run_body, shifted_positions
from .fake_quantization import LayerFakeQuantizer, fake_quantized_attention
from .loss import kl_divergence
from .model_state import frozen_parameters
from .recompute import recomputed_if_needed


_STEP_UNITS = {"log_scale": 0.1, "mean_shift": 0.05, "turn": 0.003}
"""Step sizes of the parameters that are relative ones; those of the centroids depend on the centroids."""


def refine(
    model: PreTrainedModel,
    codebooks: dict[int, LayerCodebook],
    draw_windows: Callable[[int], torch.Tensor],
    num_steps: int,
    *,
    sink_length: int = 4,
    residual_length: int = 128,
    sink_choice: str = SMALL_VALUES,
    learning_rate: float = 0.1,
    max_position: int | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> dict[int, LayerCodebook]:
    """Improve centroids and transforms by gradient of KL(full precision || quantized cache).

    Codes are chosen by nearest centroid and passed straight through; the model's weights stay as they are. Every
    window is placed at a random position up to `max_position`, so that the keys' statistics cover the whole range
    without the cost of long windows.

    Args:
        model: the model, unchanged afterwards.
        codebooks: layer index -> codebook, the starting point.
        draw_windows: step -> int64 `[B, T]`, the text of that step, `T >= sink_length + residual_length + 2`.
        num_steps: optimizer steps.
        sink_length: early tokens in full precision.
        residual_length: recent tokens in full precision.
        sink_choice: see `VecInferConfig.sink_choice`.
        learning_rate: Adam's step in units of each parameter's size (`_step_unit`); decays to 0 along a cosine.
        max_position: end of the position range; default no displacement.
        max_seconds: stop (at the end of the cosine, which follows the larger share of steps or time) after so long.
        seed: seed of the positions.
        progress: called with the KL divergence, nats per token, after each step.

    Returns:
        The refined codebooks. On a CPU the same seed gives the same bits; on a GPU sums may differ in the last bits.
    """
    device, shard = computing_device(model), head_shard(model)
    devices = layer_devices(model, list(codebooks))
    if shard.size > 1 and max_seconds is not None:
        raise ConfigError(f"max_seconds={max_seconds} would stop each process at another step; give num_steps only.")
    layers, parameters = {}, []
    for index, codebook in codebooks.items():
        layer = layers[index] = LayerFakeQuantizer(codebook.heads(shard.of(codebook.num_heads))).to(devices[index])
        # Step sizes come from all heads, whichever of them this process has.
        whole = LayerFakeQuantizer(codebook).to(devices[index])
        for own, side in ((layer.key, whole.key), (layer.value, whole.value)):
            for name, parameter in own.named_parameters():
                parameters.append({"params": [parameter], "unit": _step_unit(side, name)})
    optimizer = torch.optim.Adam(
        parameters,
        lr=0.0,
        betas=(0.9, 0.98),
    )
    attention = fake_quantized_attention(layers, sink_length, residual_length, sink_choice=sink_choice)
    generator = torch.Generator().manual_seed(seed)
    first = sink_length + residual_length
    started = time.monotonic()
    with frozen_parameters(model):
        for step in range(num_steps):
            share = step / num_steps
            if max_seconds is not None:
                share = max(share, (time.monotonic() - started) / max_seconds)
            if share >= 1:
                break
            warm_up = min(1.0, (step + 1) / 10)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group["unit"] * warm_up * 0.5 * (1 + math.cos(math.pi * share))
            ids = draw_windows(step).to(device)
            positions = shifted_positions(ids.shape[1], max_position, generator, device)
            # Products of bfloat16 on a GPU: a step's choice of text makes more noise than their rounding.
            half = device.type == "cuda"
            products = torch.autocast(device.type, torch.bfloat16, enabled=half)
            with products, torch.no_grad(), attention_function(model, plain_attention):
                full_precision = run_body(model, ids, positions)[:, first:-1]
            optimizer.zero_grad(set_to_none=True)
            element = 2 if half else model.dtype.itemsize
            with attention_function(model, attention), recomputed_if_needed(model, *ids.shape, element):
                with products:
                    quantized = run_body(model, ids, positions)[:, first:-1]
                kl = kl_divergence(model, full_precision, quantized)
                kl.backward()
            optimizer.step()
            if progress is not None:
                progress(kl.item())
    group = process_group(model)
    return {index: _of_all_heads(layer.to_codebook(), shard, device, group) for index, layer in layers.items()}


def _of_all_heads(own: LayerCodebook, shard: HeadShard, device: torch.device, group: Any) -> LayerCodebook:
    """Return a layer's codebook for all heads from those of every process's own."""
    return LayerCodebook(*(None if tensor is None else gather_heads(tensor, shard, device, group) for tensor in own))


@torch.no_grad()
def _step_unit(side: FakeQuantizer, name: str) -> float:
    """Return the size of a parameter, which the learning rate multiplies."""
    if name in _STEP_UNITS:
        return _STEP_UNITS[name]
    # Centroids: half the distance to the next one, per element, about the error that quantization makes anyway. The
    # size of the centroids is no measure, their elements differ by orders of magnitude.
    last = side.centroids[:, -1]
    distance = torch.cdist(last, last)
    distance.diagonal(dim1=-2, dim2=-1).fill_(math.inf)
    spacing = distance.amin(-1)
    spacing = spacing[spacing > 0]  # spare centroids repeat others
    return 0.5 * spacing.median().item() / math.sqrt(last.shape[-1]) if len(spacing) else 1e-8
