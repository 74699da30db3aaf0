# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""RecordedStep: a decode step of a growing cache that is recorded once and replayed for many tokens.

Owns what the host does around a replay: room for the tokens to come, and the lengths after each. While a step is
recorded, layers store and attend by the lengths on the device. integration/recorded_decode.py owns the recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..model_info.layers import DummyLayer
from ..ops.placement import window_span
from .cache import VecInferCache
from .layer import VecInferLayer
from .online_codebook import OnlineCodebook
from .storage import ordinary_tensors


ROOM = 512
"""Tokens of each row for which a recording makes room: few bytes as codes, and rare new recordings."""


def layers_not_recorded(cache: VecInferCache) -> list[int]:
    """Return the indices of the layers that keep a decode step from being recorded: those that hold no codes."""
    kinds = VecInferLayer, DummyLayer
    return [index for index, layer in enumerate(cache.layers) if type(layer) not in kinds]


def recording_problem(cache: VecInferCache) -> str | None:
    """Return why decode steps with `cache` cannot be recorded now, or None if they can."""
    others = layers_not_recorded(cache)
    if others:
        return f"layers {others} have no growing cache of codes"
    layers = cache.quantized_layers
    if not layers or not all(layer.is_initialized for layer in layers):
        return "the cache is empty"
    if not all(layer.fits_window(1) for layer in layers):
        return "residual_length is 0"
    first = layers[0].storage
    if isinstance(cache.codebook, OnlineCodebook) and not any(first.quantized):
        return "its codebook is fitted when the first token is quantized"
    if not cache.forward_pass.is_between_passes or any(layer.storage.torn is not None for layer in layers):
        return "an earlier forward pass ended midway"
    if any(layer.storage.lengths() != first.lengths() for layer in layers[1:]):
        return "its layers hold different numbers of codes"
    return None


class RecordedStep:
    """The host's part of one recorded decode step, which stores one token in every row of every layer.

    Args:
        cache: a growing cache for which `recording_problem` returns None. Room for `ROOM` tokens is made.

    Attributes:
        columns: int64 scalar on the device, the columns before the step; a model reads its positions from it.
    """

    def __init__(self, cache: VecInferCache):
        self.cache = cache
        self.layers = cache.quantized_layers
        for layer in self.layers:
            with ordinary_tensors():
                layer.storage.reserve([ROOM] * layer.storage.batch_size, layer.storage.lengths())
        self._buffers = [layer.buffers for layer in self.layers]
        with ordinary_tensors():
            self.columns = torch.zeros((), dtype=torch.int64, device=self.layers[0].device)

    def fits(self) -> bool:
        """Return whether a replay stores into the buffers of the recording, and they have room for one more token."""
        if any(layer.buffers is not known for layer, known in zip(self.layers, self._buffers, strict=True)):
            return False
        storage = self.layers[0].storage
        return storage.has_room([1] * storage.batch_size, storage.lengths())

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Let all layers store and attend by the lengths on the device, and leave those on the host as they are."""
        self.cache.forward_pass.recorded_columns = self.columns
        for layer in self.layers:
            layer.readers_answered = 0
        try:
            yield
        finally:
            self.cache.forward_pass.recorded_columns = None

    def replay(self, run: Callable[[], None]) -> None:
        """Call `run`, which replays the step, and note its tokens on the host."""
        before = int(self.layers[0].cumulative_length)
        self.columns.fill_(before)
        # An interruption between the two leaves the device ahead; `settle_recorded` finds that out.
        self.cache.forward_pass.replaying = True
        run()
        storage = self.layers[0].storage
        tokens = [count + 1 for count in storage.tokens]
        quantized = [
            window_span(count, 1, coded, storage.sink_length, storage.residual_length)[0]
            for count, coded in zip(*storage.lengths(), strict=True)
        ]
        for layer in self.layers:
            layer.note_stored(before + 1, tokens, quantized)
        self.cache.forward_pass.replaying = False
