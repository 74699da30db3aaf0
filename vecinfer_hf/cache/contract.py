# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What users of a transformers QuantizedCache call on its layers, kvpress among them.

Such code reads `layer._dequantize(layer._quantized_keys)`, changes the tensors, and assigns
`layer._quantized_keys = layer._quantize(keys, axis=layer.axis_key)` and the same for values. Here the two assignments
together store the changed tokens anew.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..errors import UnsupportedCallError


class QuantizedSide(NamedTuple):
    """The keys or the values of a layer, as `_quantized_keys` and `_quantize` give them.

    Args:
        side: 0 for keys, 1 for values; None where `_quantize` does not know.
        states: `[B, Hkv, T, D]` to store, or None for what the layer holds.
    """

    side: int | None
    states: torch.Tensor | None


class QuantizedLayerContract:
    """The private names of transformers' QuantizedLayer, for a layer with `read`, `reset` and `store`."""

    axis_key = axis_value = 0
    _new_keys: torch.Tensor | None = None

    @property
    def nbits(self) -> float:
        """Bits per element of coded tokens, the mean of keys and values."""
        return sum(fmt.bits_per_element for fmt in self.storage.formats) / 2

    @property
    def q_group_size(self) -> int:
        """Elements that share a code: the keys' sub-vector."""
        return self.storage.formats[0].subvector_dim

    @property
    def keys(self) -> torch.Tensor | None:
        """The exact recent keys `[B, Hkv, slots, Dk]`, in the ring's order; None before the first token."""
        return None if self.storage.buffers is None else self.storage.buffers.ring_keys

    @keys.setter
    def keys(self, value: torch.Tensor | None) -> None:
        _check_empty("keys", value)

    @property
    def values(self) -> torch.Tensor | None:
        """The exact recent values `[B, Hkv, slots, Dv]`, likewise."""
        return None if self.storage.buffers is None else self.storage.buffers.ring_values

    @values.setter
    def values(self, value: torch.Tensor | None) -> None:
        _check_empty("values", value)

    @property
    def _quantized_keys(self) -> QuantizedSide:
        return QuantizedSide(0, self._new_keys)

    @_quantized_keys.setter
    def _quantized_keys(self, quantized: QuantizedSide) -> None:
        self._new_keys = quantized.states

    @property
    def _quantized_values(self) -> QuantizedSide:
        return QuantizedSide(1, None)

    @_quantized_values.setter
    def _quantized_values(self, quantized: QuantizedSide) -> None:
        keys, values, self._new_keys = self._new_keys, quantized.states, None
        if keys is None or values is None:
            raise UnsupportedCallError("Assign _quantized_keys before _quantized_values; both are stored together.")
        if self.forward_pass.padding.columns is not None:
            raise UnsupportedCallError("Rows with padding cannot be stored anew by _quantized_keys; use single rows.")
        self.reset()
        self.lazy_initialization(keys, values)
        self.store(keys, values)

    def _quantize(self, tensor: torch.Tensor, axis: int = 0) -> QuantizedSide:
        """Return `tensor` `[B, Hkv, T, D]` as something to assign; it is coded when both sides are assigned."""
        return QuantizedSide(None, tensor)

    def _dequantize(self, quantized: QuantizedSide) -> torch.Tensor:
        """Return keys or values `[B, Hkv, columns, D]` of everything stored, the exact tokens included."""
        return self.read()[quantized.side] if quantized.states is None else quantized.states


def _check_empty(name: str, value: torch.Tensor | None) -> None:
    if value is not None and value.numel():
        raise UnsupportedCallError(
            f"layer.{name} cannot be assigned; assign layer._quantized_keys and layer._quantized_values instead."
        )
