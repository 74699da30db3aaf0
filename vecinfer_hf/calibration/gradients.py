# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""How much an error in each key and value would cost: gradients of the model's own log-likelihood.

Owns the recording of gradients. fit.py chooses transforms and weights with them, allocate.py bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ..config import SMALL_VALUES
from .attention import attention_function
from .recompute import recomputed_if_needed
from .recorder import LayerStates, group_moment, sample_tokens
from .refine import model_logits
from .simulate import doubled_attention


@dataclass
class GradientStates(LayerStates):
    """`LayerStates` with the gradient of the log-likelihood with respect to every kept key and value.

    With labels drawn from the model's own prediction, `E[g g^T]` is the Fisher information: an error `e` of one key
    or value costs `(g . e)^2 / 2` nats of KL divergence, summed over all predictions of its window, to second order.

    Args:
        key_gradients: `[Hkv, samples, D]`, of the coded keys only: what sinks and the window read is exact.
        value_gradients: `[Hkv, samples, D]`.
        key_fisher: float32 `[Hkv, D, D]`, mean of `g g^T / |g|^2` over all tokens that are ever coded: the directions
            that matter, every token counting alike, because a few have gradients larger by orders of magnitude.
        value_fisher: float32 `[Hkv, D, D]`.
    """

    key_gradients: torch.Tensor
    value_gradients: torch.Tensor
    key_fisher: torch.Tensor
    value_fisher: torch.Tensor


def record_gradients(
    model: PreTrainedModel,
    windows: torch.Tensor,
    layer_indices: list[int],
    *,
    sink_length: int = 4,
    residual_length: int = 128,
    sink_choice: str = SMALL_VALUES,
    num_samples: int = 16384,
    max_position: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[int, GradientStates]:
    """Run `model` forwards and backwards on text; keep a sample of its keys and values with their gradients.

    Every window is placed at a random position up to `max_position`. Only tokens that some later token reads as
    codes are kept: those after the sinks and before the last `residual_length` of a window.

    Args:
        model: the model, unchanged afterwards.
        windows: int64 `[windows, T]`, `T` more than `sink_length + residual_length`.
        layer_indices: the layers to record.
        sink_length: exact early tokens.
        residual_length: exact recent tokens.
        sink_choice: see `VecInferConfig.sink_choice`; sinks among the kept tokens have gradients of 0.
        num_samples: tokens kept, at most.
        max_position: end of the position range; default no displacement.
        seed: seed of the sample, the positions and the labels.
        progress: called with the number of tokens after each window.

    Raises:
        ValueError: if windows are too short to have coded tokens, or a layer never calls its attention.
    """
    count, length = windows.shape
    first = sink_length + residual_length
    eligible = length - first
    if eligible < 2:
        raise ValueError(
            f"Windows of {length} tokens have no coded ones after {sink_length} sinks and a window of "
            f"{residual_length}; use longer windows."
        )
    generator = torch.Generator().manual_seed(seed)
    picked = sample_tokens(count, eligible, num_samples, generator)
    states: dict[int, GradientStates] = {}
    attention, leaves = _leaf_attention(set(layer_indices), sink_length, residual_length, sink_choice)
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = model.device
    taken = 0
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for row, tokens in enumerate(picked):
            room = max(1, (max_position or 0) - length + 1)
            offset = int(torch.randint(room, (1,), generator=generator))
            positions = torch.arange(offset, offset + length, device=device).unsqueeze(0)
            leaves.clear()
            element = model.dtype.itemsize
            with attention_function(model, attention), recomputed_if_needed(model, 1, length, element):
                ids = windows[row : row + 1].to(device)
                hidden = model.base_model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
                hidden.backward(_label_gradient(model, hidden.detach(), first, generator))
            slots, kept = slice(taken, taken + len(tokens)), tokens.to(device) + sink_length
            for index, (query, key, value, key_leaf, value_leaf) in leaves.items():
                if index not in states:
                    states[index] = _empty(key, value, sum(map(len, picked)))
                _keep(states[index], query, key, value, key_leaf.grad, value_leaf.grad, slots, kept, first, count)
            taken += len(tokens)
            if progress is not None:
                progress(length)
    finally:
        leaves.clear()
        for parameter in frozen:
            parameter.requires_grad_(True)
    missing = sorted(set(layer_indices) - set(states))
    if missing:
        raise ValueError(
            f"Layers {missing} of {type(model).__name__} never called their attention through transformers' attention "
            "interface; this model is not supported."
        )
    return {index: states[index] for index in layer_indices}


def _leaf_attention(wanted: set[int], sink_length: int, residual_length: int, sink_choice: str):
    """Attention whose coded keys and values are the exact ones plus a zero that collects the gradient."""
    leaves: dict[int, tuple[torch.Tensor, ...]] = {}

    def coded(module, query, key, value):
        if module.layer_idx not in wanted:
            return None
        # A layer that is computed again (recompute.py) finds the zeros of the first time.
        if module.layer_idx not in leaves:
            zeros = torch.zeros_like(key, requires_grad=True), torch.zeros_like(value, requires_grad=True)
            leaves[module.layer_idx] = query.detach(), key.detach(), value.detach(), *zeros
        zeros = leaves[module.layer_idx][3:]
        return key + zeros[0], value + zeros[1]

    return doubled_attention(coded, sink_length, residual_length, sink_choice=sink_choice), leaves


def _label_gradient(model, hidden: torch.Tensor, first: int, generator: torch.Generator) -> torch.Tensor:
    """Gradient of -log p(label), summed over the predictions codes can influence, labels drawn from the model."""
    gradient = torch.zeros_like(hidden)
    for start in range(first, hidden.shape[1], 512):
        rows = hidden[:, start : start + 512].clone().requires_grad_(True)
        scores = model_logits(model, rows).log_softmax(-1)
        draws = torch.rand(scores.shape[:-1], generator=generator).to(scores.device)
        cumulative = scores.detach().exp().cumsum(-1)
        labels = torch.searchsorted(cumulative, (draws.unsqueeze(-1) * cumulative[..., -1:]))
        loss = -scores.gather(-1, labels.clamp_max(scores.shape[-1] - 1)).sum()
        gradient[:, start : start + 512] = torch.autograd.grad(loss, rows)[0]
    return gradient


def _empty(key: torch.Tensor, value: torch.Tensor, samples: int) -> GradientStates:
    heads, dim = key.shape[1], key.shape[-1]

    def room() -> torch.Tensor:
        return key.new_empty(heads, samples, dim)

    def square() -> torch.Tensor:
        return torch.zeros(heads, dim, dim, device=key.device)

    return GradientStates(
        room(), room(), torch.zeros(heads, dim, device=key.device), square(), room(), room(), square(), square()
    )  # fmt: skip


def _keep(states, query, key, value, key_grad, value_grad, slots, kept, first, count) -> None:
    """Store the kept tokens of one window and add its moments."""
    for target, source in (
        (states.keys, key),
        (states.values, value),
        (states.key_gradients, key_grad),
        (states.value_gradients, value_grad),
    ):
        target[:, slots] = source[0].index_select(1, kept)
    heads, tokens, dim = key.shape[1:]
    torch.maximum(states.key_absmax, key[0, :, first:].float().abs().amax(1), out=states.key_absmax)
    states.query_moment.add_(group_moment(query[:, :, first:], heads), alpha=1 / count)
    for total, gradient in ((states.key_fisher, key_grad), (states.value_fisher, value_grad)):
        rows = torch.nn.functional.normalize(gradient[0].float(), dim=-1, eps=1e-30)
        total.add_(rows.transpose(1, 2) @ rows, alpha=1 / ((tokens - first) * count))
