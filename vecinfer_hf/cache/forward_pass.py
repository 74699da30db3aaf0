# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""ForwardPass: where the forward pass under way stands, shared by the layers of one cache.

Owns the order of the layers, the lengths before the pass, and what is needed to put transformers' own layers back
after a pass that ended early. Layers of codes are cropped instead; recurrent states cannot go back.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers.cache_utils import CacheLayerMixin

from .default_layers import before_storing
from .padding import Padding
from .recurrent_pass import RecurrentPass


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


class Call(NamedTuple):
    """New tokens that several layers read.

    Args:
        before: what the layer held before them.
        valid: bool `[B, T]` on the CPU, which columns are tokens; None for all.
        readers_left: layers that have yet to attend.
    """

    before: Lengths
    valid: torch.Tensor | None
    readers_left: int


_last = threading.local()
"""The keys that a layer of transformers handed out last in this thread, and the pass they belong to."""


def pass_of(key: torch.Tensor) -> ForwardPass | None:
    """Return the pass in which a layer of transformers handed out `key` just now, or None."""
    keys, forward_pass = getattr(_last, "handed_out", (None, None))
    return forward_pass() if keys is not None and keys() is key else None


class ForwardPass:
    """The order of a pass, its progress, and the padding of the rows.

    Args:
        order: indices of the layers that store keys and values, in the order in which a pass reaches them.
        quantized: those of them that hold codes.
        recurrent: indices of the layers that hold a recurrent or convolution state, in their order.
    """

    def __init__(
        self, order: tuple[int, ...] = (0,), quantized: tuple[int, ...] = (0,), recurrent: tuple[int, ...] = ()
    ):
        self.order = order
        self.quantized = quantized
        self.states = RecurrentPass(recurrent, order)
        self.padding = Padding()
        self._successor = dict(zip(order, (*order[1:], order[:1]), strict=True)) if order else {}
        if order:
            self._successor[order[-1]] = order[0]
        self.next: int | None = order[0] if order else None
        """The layer that stores next; None after layers stored in another order."""
        self.layers_agree = True
        """Whether layers hold equally many codes; False after a repair that cropped some of them, until a reset."""
        self.recorded_columns: torch.Tensor | None = None
        """While a decode step is recorded: the columns before it, int64 scalar on the device; see recorded_step.py."""
        self.replaying = False
        """Whether a recorded step was replayed whose tokens the host has not noted yet."""
        self._before: Lengths | None = None
        self._undo: list[Callable[[], None]] = []
        self._allocated: list[CacheLayerMixin] = []
        self._nothing_stored = True

    def __deepcopy__(self, memo):
        other = ForwardPass(self.order, self.quantized, self.states.recurrent)
        memo[id(self)] = other
        other.states = copy.deepcopy(self.states, memo)
        other.padding = copy.deepcopy(self.padding, memo)
        other.next, other.layers_agree, other.replaying = self.next, self.layers_agree, self.replaying
        return other

    def __getstate__(self):
        # What takes a pass back belongs to the layers of this cache; a pickled copy can be cropped or reset.
        return {**vars(self), "_undo": [], "_allocated": [], "recorded_columns": None}

    @property
    def is_between_passes(self) -> bool:
        """Whether the last pass reached its end, so that all layers hold the same tokens."""
        return not self.order or self.next == self.order[0]

    def begin(self, before: Lengths | None) -> None:
        """Note that a pass begins; `before` is what the first quantized layer holds, if it had to be read."""
        self.next = self.order[0]
        self._before = before if self.layers_agree else None
        self._undo.clear()
        self._allocated.clear()
        self._nothing_stored = True

    def stored(self, layer_idx: int) -> None:
        """Note that a layer has stored its new tokens."""
        if layer_idx in self.quantized:
            self._nothing_stored = False
        if layer_idx == self.next:
            self.next = self._successor[layer_idx]
        else:
            self.next = None
        if self.next is None or self.next == self.order[0]:
            self._before = None
            self._undo.clear()
            self._allocated.clear()

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
            self.next, self._before = layer.layer_idx, found if in_order and self.layers_agree else None
        return found

    def remember(self, layer: CacheLayerMixin, tokens: int) -> None:
        """Keep what a layer of transformers loses by storing `tokens` new tokens, until the pass has ended."""
        self._undo.append(before_storing(layer, tokens))

    def allocated(self, layer: CacheLayerMixin) -> None:
        """Note that `layer` was allocated in this pass, for as many rows as this call has."""
        self._allocated.append(layer)

    def hand_out(self, key: torch.Tensor) -> None:
        """Note that a layer of transformers gives `key` to its attention, which may refuse the call."""
        _last.handed_out = weakref.ref(key), weakref.ref(self)

    def take_back(self) -> None:
        """Put transformers' layers back as they were before a pass that ended early."""
        for restore in reversed(self._undo):
            restore()
        self._undo.clear()

    def abandon(self) -> None:
        """End a pass that is refused before any layer of codes has stored: every layer is as it was before it."""
        if self._nothing_stored:
            self.take_back()
            for layer in self._allocated:
                _free(layer)
            self._allocated.clear()
            self.next = self.order[0]
            self.states.abandon()

    def reset(self) -> None:
        """Forget everything but the order."""
        self.padding = Padding()
        self.layers_agree = True
        self.replaying = False
        self.states.reset()
        if self.order:
            self.begin(None)


def _free(layer: CacheLayerMixin) -> None:
    """Make an empty layer as it was before it was allocated, so that the next call may have other rows."""
    if hasattr(layer, "storage"):
        layer.storage.buffers = None
        layer.storage.clear()
    else:
        layer.keys = layer.values = None
    layer.is_initialized = False
