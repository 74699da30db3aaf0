# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The codebook of one process's heads, out of that of all heads."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TypeVar

from ..distributed.heads import ALL_HEADS, HeadShard


Sharded = TypeVar("Sharded", bound="HeadSharding")


class HeadSharding:
    """What a codebook with `identity`, `layers` and `_on_device` has for processes that share its heads."""

    head_shard = ALL_HEADS
    """The heads of the model that it is for."""
    _whole = None

    @property
    def whole(self: Sharded) -> Sharded:
        """The codebook of all heads that this one is a part of, or itself."""
        return self if self._whole is None else self._whole

    def shard(self: Sharded, shard: HeadShard) -> Sharded:
        """Return the codebook of one process's heads, its tensors views of these; itself if it has all heads.

        A second call returns the same object, so that caches of one process share its copy on the device.
        """
        if shard.size == 1:
            return self
        if shard not in self._shards:
            self._shards[shard] = self._make_shard(shard)
        return self._shards[shard]

    def _make_shard(self: Sharded, shard: HeadShard) -> Sharded:
        other, shapes, layers = copy.copy(self), {}, {}
        for index, layer in self.layers.items():
            part = shard.of(layer.num_heads)
            shapes[index] = self.identity.layers[index]._replace(num_key_value_heads=part.stop - part.start)
            layers[index] = layer.heads(part)
        other.identity, other.layers = replace(self.identity, layers=shapes), layers
        other.head_shard, other._whole, other._on_device, other._shards = shard, self, {}, {}
        return other
