# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Refinement of a whole codebook against the unquantized model's predictions, by gradient.

Owns the objective and the optimizer; simulate.py owns the quantized attention it differentiates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ..config import SMALL_VALUES
from ..model_info import text_config
from ..ops.types import LayerCodebook
from .attention import attention_function, plain_attention
from .recompute import recomputed_if_needed
from .simulate import LayerSimulator, VectorSimulator, simulated_attention


_LOGITS, _LOGITS_CPU = 1 << 27, 1 << 25
"""Logits formed at once, 512 and 128 MB of each of the few arrays that a loss takes."""
_STEP_UNITS = {"log_scale": 0.1, "mean_shift": 0.05, "turn": 0.003}
"""Step sizes of the parameters that are relative ones; those of the centroids depend on the centroids."""


class SimulatedLoss(NamedTuple):
    """Loss of a simulated cache on text, means over the predicted tokens that codes can influence.

    Args:
        nll_stock: negative log-likelihood of the unquantized model, nats per token.
        nll: the same with the quantized cache.
        kl: KL(stock || quantized) of the next-token distribution, nats per token.
        top1_agreement: share of tokens for which both predict the same next token, 0 to 1.
    """

    nll_stock: float
    nll: float
    kl: float
    top1_agreement: float

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity divided by the unquantized model's."""
        return math.exp(self.nll - self.nll_stock)


def simulated_loss(
    model: PreTrainedModel,
    layers: dict[int, LayerSimulator],
    windows: torch.Tensor,
    *,
    sink_length: int = 4,
    residual_length: int = 128,
    sink_choice: str = SMALL_VALUES,
    chunk_length: int = 1,
    batch_size: int = 1,
    from_start: bool = True,
    stock: torch.Tensor | None = None,
    progress: Callable[[int], None] | None = None,
) -> SimulatedLoss:
    """Measure what quantizing `layers` costs, in one pass over each window.

    Args:
        model: the model, unchanged afterwards.
        layers: layer index -> simulator.
        windows: int64 `[windows, T]`.
        sink_length: exact early tokens.
        residual_length: exact recent tokens.
        sink_choice: see `VecInferConfig.sink_choice`.
        chunk_length: see `simulated_attention`.
        batch_size: windows per pass.
        from_start: count every predicted token, as perplexity does; else only those that codes can influence.
        stock: what `stock_states` returned for the same windows; computed here if None.
        progress: called with the number of tokens after each pass.
    """
    if stock is None:
        stock = stock_states(model, windows, batch_size)
    sums, count = torch.zeros(4, dtype=torch.float64), 0
    first = 0 if from_start else sink_length + residual_length
    attention = simulated_attention(layers, sink_length, residual_length, chunk_length, sink_choice=sink_choice)
    with torch.no_grad():
        for rows, states in zip(windows.split(batch_size), stock.split(batch_size), strict=True):
            ids = rows.to(model.device)
            with attention_function(model, attention):
                coded = _hidden(model, ids, None)[:, first:-1]
            sums += _sums(model, states[:, first:-1], coded, ids[:, first + 1 :])
            count += coded.shape[0] * coded.shape[1]
            if progress is not None:
                progress(ids.numel())
    return SimulatedLoss(*(sums / count).tolist())


@torch.no_grad()
def stock_states(model: PreTrainedModel, windows: torch.Tensor, batch_size: int = 1) -> torch.Tensor:
    """Return the unquantized last hidden states `[windows, T, hidden]`, to measure several codebooks against."""
    with attention_function(model, plain_attention):
        return torch.cat([_hidden(model, rows.to(model.device), None) for rows in windows.split(batch_size)])


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
    """Improve centroids and transforms by gradient of KL(unquantized model || model with the quantized cache).

    Codes are chosen by nearest centroid and passed straight through; the model's weights stay as they are. Every
    window is placed at a random position up to `max_position`, so that the keys' statistics cover the whole range
    without the cost of long windows.

    Args:
        model: the model, unchanged afterwards.
        codebooks: layer index -> codebook, the starting point.
        draw_windows: step -> int64 `[B, T]`, the text of that step.
        num_steps: optimizer steps.
        sink_length: exact early tokens.
        residual_length: exact recent tokens.
        sink_choice: see `VecInferConfig.sink_choice`.
        learning_rate: Adam's step in units of each parameter's size (`_step_unit`); decays to 0 along a cosine.
        max_position: end of the position range; default no displacement.
        max_seconds: stop (at the end of the cosine, which follows the larger share of steps or time) after so long.
        seed: seed of the positions.
        progress: called with the KL divergence, nats per token, after each step.

    Returns:
        The refined codebooks. On a CPU the same seed gives the same bits; on a GPU sums may differ in the last bits.
    """
    device = model.device
    layers = {index: LayerSimulator(codebook).to(device) for index, codebook in codebooks.items()}
    groups = []
    for layer in layers.values():
        for side in (layer.key, layer.value):
            for name, parameter in side.named_parameters():
                groups.append({"params": [parameter], "unit": _step_unit(side, name)})
    optimizer = torch.optim.Adam(groups, lr=0.0, betas=(0.9, 0.98))
    attention = simulated_attention(layers, sink_length, residual_length, sink_choice=sink_choice)
    generator = torch.Generator().manual_seed(seed)
    first = sink_length + residual_length
    started = time.monotonic()
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
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
            room = max(1, (max_position or 0) - ids.shape[1] + 1)
            offset = int(torch.randint(room, (1,), generator=generator))
            positions = torch.arange(offset, offset + ids.shape[1], device=device).unsqueeze(0)
            # Products of bfloat16 on a GPU: a step's choice of text makes more noise than their rounding.
            half = device.type == "cuda"
            products = torch.autocast(device.type, torch.bfloat16, enabled=half)
            with products, torch.no_grad(), attention_function(model, plain_attention):
                stock = _hidden(model, ids, positions)[:, first:-1]
            optimizer.zero_grad(set_to_none=True)
            element = 2 if half else model.dtype.itemsize
            with attention_function(model, attention), recomputed_if_needed(model, *ids.shape, element):
                with products:
                    coded = _hidden(model, ids, positions)[:, first:-1]
                kl = _kl(model, stock, coded)
                kl.backward()
            optimizer.step()
            if progress is not None:
                progress(kl.item())
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return {index: layer.to_codebook() for index, layer in layers.items()}


@torch.no_grad()
def _step_unit(side: VectorSimulator, name: str) -> float:
    """Size of a parameter, which the learning rate multiplies."""
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


def _hidden(model: PreTrainedModel, ids: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
    return model.base_model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state


def model_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Return what the model makes of its last hidden states, float32; some families scale or cap their logits."""
    config = text_config(model.config)
    logits = model.get_output_embeddings()(hidden).float()
    logits = logits * (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return logits if not softcap else softcap * torch.tanh(logits / softcap)


def _row_splits(model: PreTrainedModel, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Split `[rows, ...]` so that the logits of a part stay small, whatever the vocabulary."""
    return states.split(max(1, (_LOGITS if states.is_cuda else _LOGITS_CPU) // text_config(model.config).vocab_size))


def _kl(model: PreTrainedModel, stock: torch.Tensor, coded: torch.Tensor) -> torch.Tensor:
    """Mean KL(stock || coded) with a gradient towards `coded`, a few rows of logits at a time."""

    def part(coded_rows: torch.Tensor, stock_rows: torch.Tensor) -> torch.Tensor:
        target = model_logits(model, stock_rows).log_softmax(-1)
        return (target.exp() * (target - model_logits(model, coded_rows).log_softmax(-1))).sum()

    stock, coded = stock.flatten(0, 1), coded.flatten(0, 1)
    pieces = zip(*(_row_splits(model, states) for states in (coded, stock)), strict=True)
    total = sum(checkpoint(part, *rows, use_reentrant=False) for rows in pieces)
    return total / coded.shape[0]


def _sums(model: PreTrainedModel, stock: torch.Tensor, coded: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sums over tokens of both negative log-likelihoods, KL divergence and agreement, float64 `[4]` on the CPU."""
    total = torch.zeros(4, dtype=torch.float64)
    pieces = zip(*(_row_splits(model, states.flatten(0, 1)) for states in (stock, coded, targets)), strict=True)
    for stock_rows, coded_rows, target in pieces:
        stock_log, coded_log = (model_logits(model, states).log_softmax(-1) for states in (stock_rows, coded_rows))
        picked = target.unsqueeze(-1)
        values = (
            -stock_log.gather(-1, picked).squeeze(-1),
            -coded_log.gather(-1, picked).squeeze(-1),
            (stock_log.exp() * (stock_log - coded_log)).sum(-1),
            stock_log.argmax(-1) == coded_log.argmax(-1),
        )
        total += torch.stack([value.double().sum() for value in values]).cpu()
    return total
