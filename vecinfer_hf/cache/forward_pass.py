# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""ForwardPass: where the forward pass under way stands, shared by the layers of one cache.

Owns the order of the layers, the lengths before the pass, and what is needed to take back a pass that ended before
its first quantized layer stored anything.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch

from .padding import Padding


class Lengths(NamedTuple):
    """What one layer holds, on the host.

    Args:
        columns: columns seen, padding included.
        tokens: stored tokens of each row.
        quantized: tokens of each row that are codes.
    """

    columns: int
    tokens: list[int]
    quantized: list[int]


class ForwardPass:
    """The order of a pass, its progress, and the padding of the rows.

    Args:
        order: indices of the layers that store keys and values, in the order in which a pass reaches them.
        quantized: those of them that hold codes.
    """

    def __init__(self, order: tuple[int, ...] = (0,), quantized: tuple[int, ...] = (0,)):
        self.order = order
        self.quantized = quantized
        self.padding = Padding()
        self._successor = dict(zip(order, (*order[1:], order[:1]), strict=True)) if order else {}
        if order:
            self._successor[order[-1]] = order[0]
        self.next: int | None = order[0] if order else None
        """The layer that stores next; None after layers stored in another order."""
        self._before: Lengths | None = None
        self._undo: list[tuple[Any, dict[str, Any]]] = []
        self._nothing_stored = True

    def __deepcopy__(self, memo):
        other = ForwardPass(self.order, self.quantized)
        memo[id(self)] = other
        other.padding = copy.deepcopy(self.padding, memo)
        other.next = self.next
        return other

    @property
    def is_between_passes(self) -> bool:
        """Whether the last pass reached its end, so that all layers hold the same tokens."""
        return not self.order or self.next == self.order[0]

    def begin(self, before: Lengths | None) -> None:
        """Note that a pass begins; `before` is what the first quantized layer holds, if it had to be read."""
        self.next = self.order[0]
        self._before = before
        self._undo.clear()
        self._nothing_stored = True

    def stored(self, layer_idx: int) -> None:
        """Note that a layer has stored its new tokens."""
        if layer_idx in self.quantized:
            self._undo.clear()
            self._nothing_stored = False
        if layer_idx == self.next:
            self.next = self._successor[layer_idx]
        else:
            self.next = None
        if self.next is None or self.next == self.order[0]:
            self._before = None

    def lengths_before(self, layer) -> Lengths:
        """Return what `layer` held before this pass.

        The first quantized layer copies its lengths from the device. Later layers reuse that copy while layers run in
        order. After any other order each layer reads its own, until a pass begins that found all layers equal.
        """
        if layer.layer_idx == self.next and self._before is not None:
            return self._before
        found = layer.read_lengths()
        if layer.layer_idx == self.quantized[0]:
            in_order = self.next in self.order[: self.order.index(layer.layer_idx) + 1]
            self.next, self._before = layer.layer_idx, found if in_order else None
        return found

    def remember(self, layer) -> None:
        """Keep what a layer of transformers holds, until a quantized layer of this pass has stored."""
        if not self._nothing_stored:
            return
        state = {
            name: value.clone() if isinstance(value, torch.Tensor) and layer.is_compileable else value
            for name, value in vars(layer).items()
        }
        self._undo.append((layer, state))

    def take_back(self) -> None:
        """Put remembered layers back as they were before the pass that ended early."""
        for layer, state in reversed(self._undo):
            for name, value in state.items():
                present = getattr(layer, name, None)
                if layer.is_compileable and isinstance(value, torch.Tensor) and isinstance(present, torch.Tensor):
                    present.copy_(value)  # compiled steps know the tensor by its address
                else:
                    setattr(layer, name, value)
        self._undo.clear()

    def abandon(self) -> None:
        """End a pass that is refused before any layer of codes has stored: every layer is as it was before it."""
        if self._nothing_stored:
            self.take_back()
            self.next = self.order[0]

    def reset(self) -> None:
        """Forget everything but the order."""
        self.padding = Padding()
        if self.order:
            self.begin(None)
