# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The loss of quantization: predictions with fake quantization next to those in full precision.

Owns the logits, a few rows at a time, and the figures. refine.py lowers them, allocate.py compares them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ..config import SMALL_VALUES
from ..distributed.devices import computing_device
from ..errors import UnsupportedModelError
from ..model_info import text_config
from .attention import attention_function, plain_attention, run_body
from .fake_quantization import fake_quantized_attention


_LOGITS, _LOGITS_CPU = 1 << 27, 1 << 25
"""Logits formed at once, 512 and 128 MB of each of the few arrays that a loss takes."""


class QuantizationLoss(NamedTuple):
    """Means over predicted tokens, of a model with fake quantization and of the same model in full precision.

    Args:
        nll_full_precision: negative log-likelihood in full precision, nats per token.
        nll: the same with fake quantization.
        kl: KL(full precision || quantized) of the next-token distribution, nats per token.
        top1_agreement: fraction of tokens for which both predict the same next token, 0 to 1.
    """

    nll_full_precision: float
    nll: float
    kl: float
    top1_agreement: float

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity divided by that in full precision."""
        return math.exp(self.nll - self.nll_full_precision)


def quantization_loss(
    model: PreTrainedModel,
    layers: Mapping[int, torch.nn.Module],
    windows: torch.Tensor,
    *,
    sink_length: int = 4,
    residual_length: int = 128,
    sink_choice: str = SMALL_VALUES,
    chunk_length: int = 1,
    batch_size: int = 1,
    from_start: bool = True,
    full_precision: torch.Tensor | None = None,
    progress: Callable[[int], None] | None = None,
) -> QuantizationLoss:
    """Measure what quantizing `layers` costs, in one pass over each window.

    Args:
        model: the model, unchanged afterwards.
        layers: layer index -> `LayerFakeQuantizer`, on the model's device; see `fake_quantized_attention`.
        windows: int64 `[windows, T]`.
        sink_length: early tokens in full precision.
        residual_length: recent tokens in full precision.
        sink_choice: see `VecInferConfig.sink_choice`.
        chunk_length: see `fake_quantized_attention`.
        batch_size: windows per pass.
        from_start: count every predicted token, as perplexity does; else only those that codes can influence.
        full_precision: `full_precision_states` of the same windows; computed here if None.
        progress: called with the number of tokens after each pass.
    """
    if full_precision is None:
        full_precision = full_precision_states(model, windows, batch_size)
    sums, count = torch.zeros(4, dtype=torch.float64), 0
    first = 0 if from_start else sink_length + residual_length
    attention = fake_quantized_attention(layers, sink_length, residual_length, chunk_length, sink_choice=sink_choice)
    with torch.no_grad():
        for rows, states in zip(windows.split(batch_size), full_precision.split(batch_size), strict=True):
            with attention_function(model, attention):
                quantized = run_body(model, rows)[:, first:-1]
            ids = rows.to(quantized.device)
            sums += _sums(model, states[:, first:-1], quantized, ids[:, first + 1 :])
            count += quantized.shape[0] * quantized.shape[1]
            if progress is not None:
                progress(ids.numel())
    return QuantizationLoss(*(sums / count).tolist())


@torch.no_grad()
def full_precision_states(model: PreTrainedModel, windows: torch.Tensor, batch_size: int = 1) -> torch.Tensor:
    """Return the last hidden states `[windows, T, hidden]` in full precision, to measure several codebooks against."""
    with attention_function(model, plain_attention):
        return torch.cat([run_body(model, rows) for rows in windows.split(batch_size)])


def model_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Return logits float32 `[..., vocabulary]` of last hidden states `[..., hidden]`, scaled and capped."""
    config = text_config(model.config)
    logits = model.get_output_embeddings()(hidden).float()
    for name in ("logit_scale", "lm_head_multiplier"):
        logits = logits * (getattr(config, name, None) or 1.0)
    logits = logits / (getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return logits if not softcap else softcap * torch.tanh(logits / softcap)


@torch.no_grad()
def check_logits(model: PreTrainedModel, input_ids: torch.Tensor) -> None:
    """Raise UnsupportedModelError unless `model_logits` gives what the model itself does for `input_ids` `[1, T]`."""
    ids = input_ids.to(computing_device(model))
    own, ours = model(input_ids=ids, use_cache=False).logits.float(), model_logits(model, run_body(model, ids))
    # Both round the same product to the model's dtype.
    allowed = 64 * torch.finfo(model.dtype).eps * own.abs().max()
    if own.shape != ours.shape or (own - ours).abs().max() > allowed:
        raise UnsupportedModelError(
            f"{type(model).__name__} computes its logits in a way of its own, which recipes with gradients, "
            'allocation and refinement do not follow. Use recipe="query" without allocate and refine_steps.'
        )


def kl_divergence(model: PreTrainedModel, full_precision: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """Return the mean KL(full precision || quantized), nats per token, with a gradient towards `quantized`.

    Args:
        model: the model.
        full_precision: `[B, T, hidden]`, last hidden states.
        quantized: `[B, T, hidden]`.
    """

    def part(quantized_rows: torch.Tensor, target_rows: torch.Tensor) -> torch.Tensor:
        target = model_logits(model, target_rows).log_softmax(-1)
        return (target.exp() * (target - model_logits(model, quantized_rows).log_softmax(-1))).sum()

    pieces = _row_pieces(model, quantized, full_precision)
    total = sum(checkpoint(part, *rows, use_reentrant=False) for rows in pieces)
    return total / (quantized.shape[0] * quantized.shape[1])


def _row_pieces(model: PreTrainedModel, *arrays: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield pieces `[rows, ...]` of arrays `[B, T, ...]`, the same rows of each, with few enough logits."""
    flat = [array.flatten(0, 1) for array in arrays]
    most = (_LOGITS if flat[0].is_cuda else _LOGITS_CPU) // text_config(model.config).vocab_size
    return zip(*(array.split(max(1, most)) for array in flat), strict=True)


def _sums(
    model: PreTrainedModel, full_precision: torch.Tensor, quantized: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return sums over tokens of both negative log-likelihoods, KL divergence and agreement, float64 `[4]` (CPU).

    Args:
        model: the model.
        full_precision: `[B, T, hidden]`, last hidden states.
        quantized: `[B, T, hidden]`.
        targets: int64 `[B, T]`, the tokens that come next.
    """
    total = torch.zeros(4, dtype=torch.float64)
    for full_rows, quantized_rows, target in _row_pieces(model, full_precision, quantized, targets):
        full_log, quantized_log = (model_logits(model, rows).log_softmax(-1) for rows in (full_rows, quantized_rows))
        picked = target.unsqueeze(-1)
        values = (
            -full_log.gather(-1, picked).squeeze(-1),
            -quantized_log.gather(-1, picked).squeeze(-1),
            (full_log.exp() * (full_log - quantized_log)).sum(-1),
            full_log.argmax(-1) == quantized_log.argmax(-1),
        )
        total += torch.stack([value.double().sum() for value in values]).cpu()
    return total
