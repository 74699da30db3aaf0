# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Peers whose own code runs: transformers' quanto, hqq and fp8 cache layers, and tiny-turboquant's.

Owns how each is called on whole texts and how its stored bits are counted; `quantization_loss` measures them as ours.
Every token is quantized once, from its exact state. The real quanto and hqq caches quantize what they read back again
at every flush of their window, so these figures are at least as good as theirs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from transformers import cache_utils

from .peers import PeerSimulator


_GROUP = 64
"""Elements of a group in transformers' cache, by default."""
_SAMPLE_TOKENS = 1024
"""Tokens of the random states whose storage is counted: a multiple of every block length."""


def package_peers(head_dim: int, device: torch.device | str = "cpu") -> tuple[dict[str, PeerSimulator], list[str]]:
    """Return the peers that are installed, by name, and a line for each that is left out, saying why.

    quanto and hqq run in transformers' `QuantizedCache` layers with its default groups of 64; hqq along axis 1, as
    transformers' documentation advises, and quanto along its default axis 0. Either way a group is 64 channels of one
    token, so that whole texts and batches are grouped like single tokens. tiny-turboquant quantizes keys per channel
    in blocks of 128 tokens and values per token.

    Args:
        head_dim: channels of a head; true bits are counted on bfloat16 states of this size.
        device: where they will run, and are tried.
    """
    candidates: list[tuple[str, str, str, Callable[[], _Quantizer]]] = [
        ("quanto, 2 bits", "optimum.quanto", "optimum-quanto", lambda: _Quanto(2)),
        ("quanto, 4 bits", "optimum.quanto", "optimum-quanto", lambda: _Quanto(4)),
        ("hqq, 2 bits", "hqq", "hqq", lambda: _Hqq(2)),
        ("tiny-turboquant, K2V2", "tiny_turboquant", "tiny-turboquant", lambda: _TinyTurboquant(2, 2)),
    ]
    peers, missing = {}, []
    for name, module, package, make in candidates:
        if package != "tiny-turboquant" and head_dim % _GROUP:
            missing.append(f"{name}: heads of {head_dim} channels are not whole groups of {_GROUP}")
        elif not _installed(module):
            missing.append(f"{name}: not installed (pip install {package})")
        else:
            try:
                quantizer = make()
                peers[name] = PeerSimulator(quantizer.key, quantizer.value, quantizer.bits(head_dim, device))
            except Exception as error:  # other people's code, which may not know this torch, Python or device
                missing.append(f"{name}: does not run here ({type(error).__name__}: {error})")
    return peers, missing


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the parent of a dotted name
        return False


class _Quantizer:
    """Quantizes and reads back one side of a layer; `stored` returns that and the bytes a cache would hold."""

    def stored(self, states: torch.Tensor, side: int) -> tuple[torch.Tensor, int]:
        raise NotImplementedError

    def key(self, states: torch.Tensor) -> torch.Tensor:
        return self.stored(states, 0)[0]

    def value(self, states: torch.Tensor) -> torch.Tensor:
        return self.stored(states, 1)[0]

    def bits(self, head_dim: int, device: torch.device | str) -> float:
        """True bits per element: all bytes stored for bfloat16 states, codes, scales and offsets."""
        states = torch.randn(1, 1, _SAMPLE_TOKENS, head_dim, dtype=torch.bfloat16, device=device)
        return sum(8 * self.stored(states, side)[1] / states.numel() for side in (0, 1)) / 2


class _Quanto(_Quantizer):
    """transformers' `QuantoQuantizedLayer`."""

    def __init__(self, bits: int):
        self.layer, self.nbits = cache_utils.QuantoQuantizedLayer(nbits=bits), bits

    def stored(self, states: torch.Tensor, side: int) -> tuple[torch.Tensor, int]:
        axis = (self.layer.axis_key, self.layer.axis_value)[side]
        coded = self.layer._quantize(states.contiguous(), axis)
        packed = coded._data
        nbytes = packed._data.nbytes + coded._scale.nbytes + coded._shift.nbytes
        # The package compiles C++ or CUDA code, for minutes, to unpack; the rest of its arithmetic is torch's.
        shifts = range(0, 8, self.nbits)
        rows = torch.cat([(packed._data >> shift) & (2**self.nbits - 1) for shift in shifts])
        coded._data = rows[: packed.shape[0]]
        return self.layer._dequantize(coded), nbytes


class _Hqq(_Quantizer):
    """transformers' `HQQQuantizedLayer`."""

    def __init__(self, bits: int):
        self.layer = cache_utils.HQQQuantizedLayer(nbits=bits, axis_key=1, axis_value=1)

    def stored(self, states: torch.Tensor, side: int) -> tuple[torch.Tensor, int]:
        tokens = states.shape[-2]
        # Four rows share a byte, and the package refuses a number of rows that is no multiple of 4.
        states = torch.cat([states, states[..., -1:, :].expand(*states.shape[:-2], -tokens % 4, -1)], dim=-2)
        self.layer.keys = states  # says where and in which dtype to compute
        # The package empties torch's allocator twice a call, which takes longer than its arithmetic on a GPU.
        with patch("torch.cuda.empty_cache"):
            coded = self.layer._quantize(states.contiguous(), (self.layer.axis_key, self.layer.axis_value)[side])
        codes, meta = coded
        nbytes = codes.nbytes + meta["scale"].nbytes + meta["zero"].nbytes
        return self.layer._dequantize(coded)[..., :tokens, :], nbytes


class _TinyTurboquant(_Quantizer):
    """tiny-turboquant's `TinyKVLayer` without a window of its own: ours is the same for all."""

    def __init__(self, key_bits: int, value_bits: int):
        self.key_bits, self.value_bits = key_bits, value_bits

    def stored(self, states: torch.Tensor, side: int) -> tuple[torch.Tensor, int]:
        from tiny_turboquant.cache import TinyKVLayer

        layer: Any = TinyKVLayer(self.key_bits, self.value_bits, residual_len=0)
        layer.ingest(states, states)
        names = ("_key_indices", "_key_scales", "_key_zeros"), ("_value_indices", "_value_scales", "_value_zeros")
        nbytes = sum(getattr(layer, name).nbytes for name in names[side])
        # Tokens of a last block that is not full are exact, as in the package.
        return layer._materialize_full()[side], nbytes
