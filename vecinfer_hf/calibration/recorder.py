# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Keys, values and queries of a running model, recorded: a bounded random sample of tokens, and second moments.

Owns what is kept of the states; fit.py makes codebooks of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from ..distributed.heads import gather_heads, head_shard, process_group
from ..errors import ConfigError, UnsupportedModelError
from ..model_info import sharing_layers
from .attention import attention_function, plain_attention, run_body, storing_layer


@dataclass
class LayerStates:
    """What one layer's keys (after RoPE), values and queries look like, the sink tokens left out.

    Args:
        keys: `[Hkv, samples, Dk]` in the model's dtype, sampled tokens.
        values: `[Hkv, samples, Dv]`, the same tokens.
        key_absmax: float32 `[Hkv, Dk]`, largest magnitude over all tokens.
        query_moment: float32 `[Hkv, Dk, Dk]`, mean of `q q^T` over all tokens, the query heads of a group, and the
            layers that share the keys.
    """

    keys: torch.Tensor
    values: torch.Tensor
    key_absmax: torch.Tensor
    query_moment: torch.Tensor

    def side(self, side: int) -> torch.Tensor:
        """Return the keys for side 0, the values for side 1."""
        return self.values if side else self.keys


States = TypeVar("States", bound=LayerStates)


@torch.no_grad()
def record_states(
    model: PreTrainedModel,
    windows: torch.Tensor,
    layer_indices: list[int],
    *,
    sink_length: int = 4,
    num_samples: int = 16384,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[int, LayerStates]:
    """Run `model` on text and keep a sample of its keys and values.

    Which tokens are kept is drawn before the first forward, uniformly without replacement (what reservoir sampling
    gives when the number of tokens is not known), and is the same for all layers. Memory is therefore bounded by
    `num_samples * layers * Hkv * (Dk + Dv)` elements of the model's dtype, beside one window's forward pass: 0.8 GB
    for SmolLM2-135M in float32 and 16384 samples, whatever the length of the text.

    Args:
        model: the model, unchanged afterwards.
        windows: int64 `[windows, sequence_length]`.
        layer_indices: the layers to record.
        sink_length: first tokens of each window that are left out. (Which tokens a cache chooses as sinks is not known
            here; a later one is counted.)
        num_samples: tokens kept, at most.
        seed: seed of the sample.
        progress: called with the number of tokens after each window.

    Raises:
        ConfigError: if nothing is left after the sinks.
        UnsupportedModelError: if a layer never calls its attention.
    """
    count, length = windows.shape
    eligible = length - sink_length
    if eligible < 1:
        raise ConfigError(
            f"Windows of {length} tokens leave none to calibrate on after {sink_length} sinks; use longer windows."
        )
    picked = sample_tokens(count, eligible, num_samples, torch.Generator().manual_seed(seed))
    samples = sum(map(len, picked))
    wanted, sharing = set(layer_indices), list(sharing_layers(model.config).values())
    states: dict[int, LayerStates] = {}
    tokens, slots = torch.empty(0), slice(0)

    def record(module, query, key, value, attention_mask, scaling, **kwargs):
        index = storing_layer(module)
        if index in wanted:
            if index not in states:
                states[index] = empty_states(key, value, samples)
            kept = states[index]
            picked_here = tokens.to(key.device)
            kept.keys[:, slots] = key[0].index_select(1, picked_here)
            kept.values[:, slots] = value[0].index_select(1, picked_here)
            absmax = key[0, :, sink_length:].float().abs().amax(1)
            torch.maximum(kept.key_absmax, absmax, out=kept.key_absmax)
            share = 1 / (count * (1 + sharing.count(index)))
            kept.query_moment.add_(group_moment(query[:, :, sink_length:], key.shape[1]), alpha=share)
        return plain_attention(module, query, key, value, attention_mask, scaling, **kwargs)

    with attention_function(model, record):
        for row, own in enumerate(picked):
            tokens, slots = own + sink_length, slice(slots.stop, slots.stop + len(own))
            run_body(model, windows[row : row + 1])
            if progress is not None:
                progress(length)
    check_recorded(model, layer_indices, states)
    return {index: states[index] for index in layer_indices}


def empty_states(key: torch.Tensor, value: torch.Tensor, samples: int) -> LayerStates:
    """Return room for `samples` tokens of keys `[1, Hkv, T, Dk]` and values `[1, Hkv, T, Dv]`, moments 0.

    Allocated once: small tensors kept from every window would leave holes all over the heap.
    """
    heads, dim = key.shape[1], key.shape[-1]
    return LayerStates(
        key.new_empty(heads, samples, dim),
        value.new_empty(heads, samples, value.shape[-1]),
        torch.zeros(heads, dim, device=key.device),
        torch.zeros(heads, dim, dim, device=key.device),
    )


def check_recorded(model: PreTrainedModel, layer_indices: Iterable[int], states: Mapping[int, LayerStates]) -> None:
    """Raise UnsupportedModelError unless every layer was recorded."""
    missing = sorted(set(layer_indices) - set(states))
    if missing:
        raise UnsupportedModelError(
            f"Layers {missing} of {type(model).__name__} never called their attention through transformers' attention "
            "interface; this model is not supported."
        )


def of_all_heads(model: PreTrainedModel, states: Mapping[int, States]) -> dict[int, States]:
    """Return the states of all heads of each layer from those of every process's own; every tensor has heads first."""
    shard, group = head_shard(model), process_group(model)
    if shard.size == 1:
        return dict(states)
    return {
        index: type(own)(
            **{name: gather_heads(tensor, shard, model.device, group) for name, tensor in vars(own).items()}
        )
        for index, own in states.items()
    }


def sample_tokens(count: int, eligible: int, num_samples: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Draw tokens uniformly without replacement: for each of `count` windows, sorted offsets below `eligible`."""
    picked = torch.randperm(count * eligible, generator=generator)[:num_samples].sort().values
    bounds = torch.searchsorted(picked, torch.arange(1, count) * eligible).tolist()
    return [part - row * eligible for row, part in enumerate(torch.tensor_split(picked, bounds))]


def group_moment(query: torch.Tensor, heads: int) -> torch.Tensor:
    """Return the mean of `q q^T` over the tokens and query heads of each key/value head, float32 `[Hkv, Dk, Dk]`.

    Args:
        query: `[layers, Hq, T, Dk]`, of the layers that read the same keys.
        heads: Hkv, key/value heads.
    """
    rows = query.float().unflatten(1, (heads, -1)).transpose(0, 1).reshape(heads, -1, query.shape[-1])
    return rows.transpose(1, 2) @ rows / rows.shape[1]
