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
from ..distributed.devices import computing_device
from ..errors import ConfigError
from .attention import attention_function, plain_attention, run_body, shifted_positions, storing_layer
from .fake_quantization import doubled_attention
from .loss import model_logits
from .model_state import frozen_parameters
from .recompute import recomputed_if_needed
from .recorder import LayerStates, check_recorded, empty_states, group_moment, sample_tokens


_LABEL_ROWS = 512
"""Predictions whose logits are formed at once."""
_PROBE_TOKENS = 8


@dataclass
class GradientStates(LayerStates):
    """`LayerStates` with the gradient of the log-likelihood with respect to every kept key and value.

    With labels drawn from the model's own prediction, `E[g g^T]` is the Fisher information: an error `e` of one key
    or value costs `(g . e)^2 / 2` nats of KL divergence, summed over all predictions of its window, to second order.

    Args:
        key_gradients: `[Hkv, samples, Dk]`, of the quantized form only: sinks and window are read in full precision.
        value_gradients: `[Hkv, samples, Dv]`.
        key_fisher: float32 `[Hkv, Dk, Dk]`, mean of `g g^T / |g|^2` over all tokens that are ever quantized: the
            directions that matter, every token counting alike, because a few have gradients larger by orders of
            magnitude.
        value_fisher: float32 `[Hkv, Dv, Dv]`.
    """

    key_gradients: torch.Tensor
    value_gradients: torch.Tensor
    key_fisher: torch.Tensor
    value_fisher: torch.Tensor


def gradients_possible(model: PreTrainedModel) -> str | None:
    """Return why the layers of `model` give no gradients, or None if they do: some quantized weights only go forwards.

    A pass of a few tokens is tried.
    """
    leaves: list[torch.Tensor] = []

    def detached(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        leaves.append(output.detach().requires_grad_(True))
        return leaves[-1]

    hook = model.get_input_embeddings().register_forward_hook(detached)
    try:
        with attention_function(model, plain_attention), frozen_parameters(model):
            run_body(model, torch.arange(_PROBE_TOKENS).unsqueeze(0)).float().sum().backward()
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        return f"a backward pass through its layers failed: {' '.join(str(error).split())[:200]}"
    finally:
        hook.remove()
    gradient = leaves[0].grad
    if gradient is None or not torch.isfinite(gradient).all():
        return "a backward pass through its layers gives no finite gradient"
    return None


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
        sink_length: early tokens in full precision.
        residual_length: recent tokens in full precision.
        sink_choice: see `VecInferConfig.sink_choice`; sinks among the kept tokens have gradients of 0.
        num_samples: tokens kept, at most.
        max_position: end of the position range; default no displacement.
        seed: seed of the sample, the positions and the labels.
        progress: called with the number of tokens after each window.

    Raises:
        ConfigError: if windows are too short to have quantized tokens.
        UnsupportedModelError: if a layer never calls its attention.
    """
    count, length = windows.shape
    first = sink_length + residual_length
    eligible = length - first
    if eligible < 2:
        raise ConfigError(
            f"Windows of {length} tokens have no quantized ones after {sink_length} sinks and a window of "
            f"{residual_length}; use longer windows."
        )
    generator = torch.Generator().manual_seed(seed)
    picked = sample_tokens(count, eligible, num_samples, generator)
    states: dict[int, GradientStates] = {}
    attention, leaves = _leaf_attention(set(layer_indices), sink_length, residual_length, sink_choice)
    device = computing_device(model)
    taken = 0
    with frozen_parameters(model):
        for row, tokens in enumerate(picked):
            positions = shifted_positions(length, max_position, generator, device)
            leaves.clear()
            with attention_function(model, attention), recomputed_if_needed(model, 1, length, model.dtype.itemsize):
                hidden = run_body(model, windows[row : row + 1], positions)
                hidden.backward(_label_gradient(model, hidden.detach(), first, generator))
            slots, kept = slice(taken, taken + len(tokens)), tokens + sink_length
            for index, (queries, key, value, key_leaf, value_leaf) in leaves.items():
                if index not in states:
                    states[index] = _empty(key, value, sum(map(len, picked)))
                query = torch.cat(list(queries.values()))
                _keep(states[index], query, key, value, key_leaf.grad, value_leaf.grad, slots, kept, first, count)
            taken += len(tokens)
            if progress is not None:
                progress(length)
    check_recorded(model, layer_indices, states)
    return {index: states[index] for index in layer_indices}


def _leaf_attention(wanted: set[int], sink_length: int, residual_length: int, sink_choice: str):
    """Return an attention function and its leaves: the quantized form is the token plus a zero that has a gradient.

    Returns:
        The function, and a dict it fills: layer index -> queries (`[1, Hq, T, Dk]` by the layer that asks), key
        `[1, Hkv, T, Dk]`, value `[1, Hkv, T, Dv]`, zero of the key, zero of the value.
    """
    leaves: dict[int, tuple] = {}

    def quantized(module, query, key, value):
        index = storing_layer(module)
        if index not in wanted:
            return None
        # A layer that is computed again (recompute.py), or shares keys and values, finds the zeros of the first time.
        if index not in leaves:
            zeros = torch.zeros_like(key, requires_grad=True), torch.zeros_like(value, requires_grad=True)
            leaves[index] = {}, key.detach(), value.detach(), *zeros
        leaves[index][0].setdefault(module.layer_idx, query.detach())
        zeros = leaves[index][3:]
        return key + zeros[0], value + zeros[1]

    return doubled_attention(quantized, sink_length, residual_length, sink_choice=sink_choice), leaves


def _label_gradient(
    model: PreTrainedModel, hidden: torch.Tensor, first: int, generator: torch.Generator
) -> torch.Tensor:
    """Return the gradient of -log p(label), labels drawn from the model, summed over the predictions from `first` on.

    Args:
        model: the model.
        hidden: `[1, T, hidden]`, last hidden states; the result has the same shape.
        first: first prediction that quantized tokens can influence.
        generator: draws the labels.
    """
    gradient = torch.zeros_like(hidden)
    for start in range(first, hidden.shape[1], _LABEL_ROWS):
        part = slice(start, start + _LABEL_ROWS)
        rows = hidden[:, part].clone().requires_grad_(True)
        scores = model_logits(model, rows).log_softmax(-1)
        draws = torch.rand(scores.shape[:-1], generator=generator).to(scores.device)
        cumulative = scores.detach().exp().cumsum(-1)
        labels = torch.searchsorted(cumulative, (draws.unsqueeze(-1) * cumulative[..., -1:]))
        loss = -scores.gather(-1, labels.clamp_max(scores.shape[-1] - 1)).sum()
        gradient[:, part] = torch.autograd.grad(loss, rows)[0]
    return gradient


def _empty(key: torch.Tensor, value: torch.Tensor, samples: int) -> GradientStates:
    """Return room for `samples` tokens of keys `[1, Hkv, T, Dk]` and values `[1, Hkv, T, Dv]`, moments 0."""
    plain = empty_states(key, value, samples)
    heads, value_dim = value.shape[1], value.shape[-1]
    return GradientStates(
        **vars(plain),
        key_gradients=torch.empty_like(plain.keys),
        value_gradients=torch.empty_like(plain.values),
        key_fisher=torch.zeros_like(plain.query_moment),
        value_fisher=torch.zeros(heads, value_dim, value_dim, device=value.device),
    )


def _keep(
    states: GradientStates,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_grad: torch.Tensor,
    value_grad: torch.Tensor,
    slots: slice,
    kept: torch.Tensor,
    first: int,
    count: int,
) -> None:
    """Store the kept tokens of one window and add its moments.

    Args:
        states: changed in place.
        query: `[layers, Hq, T, Dk]`, of the layers that read these keys.
        key: `[1, Hkv, T, Dk]`.
        value: `[1, Hkv, T, Dv]`.
        key_grad: like `key`.
        value_grad: like `value`.
        slots: where the kept tokens go in `states`.
        kept: int64 `[n]`, the kept tokens, on the CPU.
        first: first token that counts for the moments.
        count: windows in all.
    """
    kept = kept.to(key.device)
    for target, source in (
        (states.keys, key),
        (states.values, value),
        (states.key_gradients, key_grad),
        (states.value_gradients, value_grad),
    ):
        target[:, slots] = source[0].index_select(1, kept)
    heads, tokens = key.shape[1:3]
    torch.maximum(states.key_absmax, key[0, :, first:].float().abs().amax(1), out=states.key_absmax)
    states.query_moment.add_(group_moment(query[:, :, first:], heads), alpha=1 / count)
    for total, gradient in ((states.key_fisher, key_grad), (states.value_fisher, value_grad)):
        rows = torch.nn.functional.normalize(gradient[0].float(), dim=-1, eps=1e-30)
        total.add_(rows.transpose(1, 2) @ rows, alpha=1 / ((tokens - first) * count))
