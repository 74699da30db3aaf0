# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Which layer's keys or values get how many bits: sensitivity measured on text, then the best choice under a budget.

Owns the measurement and the solver. calibrate.py makes the candidates and the final codebook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from transformers import PreTrainedModel

from ..config import SMALL_VALUES
from ..distributed.devices import layer_devices
from ..distributed.heads import head_shard
from ..errors import ConfigError
from ..ops.types import LayerCodebook
from .fake_quantization import LayerFakeQuantizer, fake_quantized_states
from .gradients import GradientStates
from .loss import full_precision_states, quantization_loss


_UNITS_PER_BIT = 4


def measure_sensitivity(
    model: PreTrainedModel,
    candidates: Mapping[float, Mapping[int, LayerCodebook]],
    windows: torch.Tensor,
    *,
    sides: Sequence[str] = ("key", "value"),
    sink_length: int = 4,
    residual_length: int = 128,
    sink_choice: str = SMALL_VALUES,
    batch_size: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, float | int | str]]:
    """Quantize one side of one layer at a time, at each candidate's bits, and measure the KL divergence it causes.

    Args:
        model: the model.
        candidates: bits -> layer index -> codebook.
        windows: int64 `[windows, T]`, text to measure on.
        sides: which sides to measure.
        sink_length: early tokens in full precision.
        residual_length: recent tokens in full precision.
        sink_choice: see `VecInferConfig.sink_choice`.
        batch_size: windows per pass.
        progress: called with 1 after each measurement.

    Returns:
        One dict per measurement: layer, side ("key" or "value"), bits, kl (nats per token).
    """
    full_precision = full_precision_states(model, windows, batch_size)
    shard = head_shard(model)
    devices = layer_devices(model, list(next(iter(candidates.values()))))
    rows = []
    for bits, codebooks in candidates.items():
        for index, codebook in codebooks.items():
            for side in sides:
                own = codebook.heads(shard.of(codebook.num_heads))
                layers = {index: LayerFakeQuantizer(own, (side,)).to(devices[index]).requires_grad_(False)}
                loss = quantization_loss(
                    model,
                    layers,
                    windows,
                    sink_length=sink_length,
                    residual_length=residual_length,
                    sink_choice=sink_choice,
                    batch_size=batch_size,
                    from_start=False,
                    full_precision=full_precision,
                )
                rows.append({"layer": index, "side": side, "bits": bits, "kl": loss.kl})
                if progress is not None:
                    progress(1)
    return rows


def allocate_bits(sensitivity: Sequence[Mapping], average_bits: float) -> list[list[float]]:
    """Return `[key_bits, value_bits]` of each layer with the least total KL divergence within the budget.

    Exact for the sum of the single effects, by dynamic programming over the bits spent.

    Args:
        sensitivity: what `measure_sensitivity` returns.
        average_bits: mean bits per element over all layers, keys and values.

    Raises:
        ConfigError: if even the fewest bits exceed the budget.
    """
    options: dict[tuple[int, int], dict[float, float]] = {}
    for row in sensitivity:
        options.setdefault((row["layer"], 0 if row["side"] == "key" else 1), {})[row["bits"]] = row["kl"]
    places = sorted(options)
    budget = int(average_bits * len(places) * _UNITS_PER_BIT + 1e-6)
    least = sum(min(options[place]) for place in places)
    if least * _UNITS_PER_BIT > budget:
        raise ConfigError(
            f"A mean of {average_bits} bits is below the least, {least / len(places):g}; ask for that or more."
        )
    # best[b] = (cost, choices) of the places so far, spending at most b units.
    best = [(0.0, ())] * (budget + 1)
    for place in places:
        after = []
        for spent in range(budget + 1):
            reachable = [
                (best[spent - int(bits * _UNITS_PER_BIT)][0] + cost, bits, best[spent - int(bits * _UNITS_PER_BIT)][1])
                for bits, cost in options[place].items()
                if spent >= int(bits * _UNITS_PER_BIT)
            ]
            cost, bits, earlier = min(reachable, default=(float("inf"), 0, ()), key=lambda choice: choice[:2])
            after.append((cost, (*earlier, bits)))
        best = after
    chosen = dict(zip(places, best[budget][1], strict=True))
    return [[chosen[index, 0], chosen[index, 1]] for index in sorted({place[0] for place in places})]


def mix_sides(
    candidates: Mapping[float, Mapping[int, LayerCodebook]], layer_bits: Sequence[Sequence[float]]
) -> dict[int, LayerCodebook]:
    """Return codebooks with each layer's key side and value side from the candidates with the chosen bits."""
    indices = sorted(next(iter(candidates.values())))
    mixed = {}
    for index, (key_bits, value_bits) in zip(indices, layer_bits, strict=True):
        values = candidates[value_bits][index]
        mixed[index] = candidates[key_bits][index]._replace(
            value_mean=values.value_mean,
            value_transform=values.value_transform,
            output_transform=values.output_transform,
            value_centroids=values.value_centroids,
            value_centroid_scale=values.value_centroid_scale,
        )
    return mixed


@torch.no_grad()
def predicted_sensitivity(
    states: Mapping[int, GradientStates], candidates: Mapping[float, Mapping[int, LayerCodebook]]
) -> list[dict[str, float | int | str]]:
    """Predict what `measure_sensitivity` measures, from recorded gradients and without another pass of the model.

    To second order the KL divergence of errors `e` in the keys or values of one layer is the mean over tokens of
    `(sum over heads of g . e) ** 2 / 2`, errors of different tokens taken as independent: a window has as many
    quantized tokens as predictions that codes can influence.

    Args:
        states: layer index -> what `record_gradients` kept.
        candidates: bits -> layer index -> codebook.

    Returns:
        As `measure_sensitivity`: layer, side, bits, kl (nats per token).
    """
    rows = []
    for bits, codebooks in candidates.items():
        for index, codebook in codebooks.items():
            own = states[index]
            own_states = own.keys.float(), own.values.float()
            restored = fake_quantized_states(*(side[None] for side in own_states), codebook.to(own.keys.device))
            gradients = own.key_gradients.float(), own.value_gradients.float()
            for side, before, after, gradient in zip(("key", "value"), own_states, restored, gradients, strict=True):
                change = ((after[0] - before) * gradient).sum((0, 2))
                kl = 0.5 * change.square().mean().item()
                rows.append({"layer": index, "side": side, "bits": bits, "kl": kl})
    return rows
