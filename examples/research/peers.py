# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Other ways to quantize keys and values, in the same simulated cache with the same exact window and sinks.

Owns the arithmetic of the peers and their true bits per element; `quantization_loss` measures them as ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from vecinfer_hf.quantization.transforms import hadamard_matrix


_METADATA_BITS = 16
"""Bits of a scale, an offset or a norm."""


class PeerSimulator(torch.nn.Module):
    """Both sides of a layer quantized by a peer; the same interface as `LayerFakeQuantizer`.

    Args:
        key: `[B, Hkv, T, D]` to what is read back, same shape.
        value: likewise.
        bits: true bits per element, everything stored per token or group counted.
    """

    def __init__(self, key: Callable, value: Callable, bits: float):
        super().__init__()
        self.key, self.value, self.bits = key, value, bits

    def after_sinks(self, sink_length: int) -> PeerSimulator:
        """Return the peer with the first `sink_length` tokens out of its groups and scales.

        They are exact for every row of the table, and their extreme channels would widen the steps of their groups.
        """

        def skipping(quantize: Callable) -> Callable:
            def quantized(states: torch.Tensor) -> torch.Tensor:
                sinks, rest = states[..., :sink_length, :], states[..., sink_length:, :]
                return torch.cat([sinks, quantize(rest)], dim=-2)

            return quantized

        return PeerSimulator(skipping(self.key), skipping(self.value), self.bits)


def fp8() -> PeerSimulator:
    """Eight-bit floats (e4m3) with one scale for all keys and one for all values of a layer, as transformers' cache.

    That cache takes the scale from its first call; here it covers the whole text, so that nothing overflows.
    """

    def quantize(states: torch.Tensor) -> torch.Tensor:
        limit = torch.finfo(torch.float8_e4m3fn).max
        scale = (states.abs().amax().float() / limit).clamp_min(torch.finfo(torch.float32).tiny)
        return ((states.float() / scale).to(torch.float8_e4m3fn).float() * scale).to(states.dtype)

    return PeerSimulator(quantize, quantize, 8.0)


def uniform_per_token(bits: int, group: int) -> PeerSimulator:
    """Round-to-nearest between minimum and maximum, per token, groups of channels (the form of quanto and hqq)."""

    def quantize(states: torch.Tensor) -> torch.Tensor:
        return _round_groups(states, min(group, states.shape[-1]), bits)

    return PeerSimulator(quantize, quantize, bits + 2 * _METADATA_BITS / group)


def kivi(bits: int, group: int) -> PeerSimulator:
    """KIVI (https://arxiv.org/abs/2402.02750): keys per channel in groups of tokens, values per token."""

    def key(states: torch.Tensor) -> torch.Tensor:
        tokens = states.shape[-2] // group * group
        whole = _round_groups(states[..., :tokens, :].transpose(-1, -2), group, bits).transpose(-1, -2)
        # A group that is not full yet is still exact in KIVI; at the end of the text few tokens are.
        return torch.cat([whole, states[..., tokens:, :]], dim=-2)

    def value(states: torch.Tensor) -> torch.Tensor:
        return _round_groups(states, min(group, states.shape[-1]), bits)

    return PeerSimulator(key, value, bits + 2 * _METADATA_BITS / group)


def rotated_lloyd_max(bits: int, head_dim: int) -> PeerSimulator:
    """Hadamard rotation, norm stored, every channel by the Lloyd-Max quantizer of a Gaussian.

    The form of TurboQuant's MSE variant (https://arxiv.org/abs/2504.19874), with random signs before the Hadamard.
    """
    levels = lloyd_max_levels(bits)
    signs = torch.randint(0, 2, (head_dim,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1

    def quantize(states: torch.Tensor) -> torch.Tensor:
        vectors = states.float()
        flip, table = signs.to(states.device), levels.to(states.device)
        rotation = hadamard_matrix(head_dim).to(states.device)
        norm = vectors.norm(dim=-1, keepdim=True) / math.sqrt(head_dim)
        turned = (vectors * flip) @ rotation / norm.clamp_min(1e-20)
        borders = (table[1:] + table[:-1]) / 2
        rounded = table[torch.bucketize(turned, borders)] * norm
        return ((rounded @ rotation) * flip).to(states.dtype)

    return PeerSimulator(quantize, quantize, bits + _METADATA_BITS / head_dim)


def lloyd_max_levels(bits: int) -> torch.Tensor:
    """Return the `2**bits` levels of the quantizer of a standard normal with the least squared error, ascending."""
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    count = 2**bits
    levels = normal.icdf((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    edge = torch.tensor([math.inf], dtype=torch.float64)
    for _ in range(500):
        borders = torch.cat([-edge, (levels[1:] + levels[:-1]) / 2, edge])
        mass = normal.cdf(borders).diff()
        density = torch.exp(-0.5 * borders.square()) / math.sqrt(2 * math.pi)
        levels = -density.diff() / mass
    return levels.float()


def _round_groups(states: torch.Tensor, group: int, bits: int) -> torch.Tensor:
    """Round the last dimension's groups to `2**bits` levels between their minimum and maximum."""
    grouped = states.float().unflatten(-1, (-1, group))
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    step = ((high - low) / (2**bits - 1)).clamp_min(1e-20)
    return (((grouped - low) / step).round() * step + low).flatten(-2).to(states.dtype)
