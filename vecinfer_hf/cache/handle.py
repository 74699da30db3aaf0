# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What passes between a cache layer and the attention function, and what the layers of one cache share.

Owns no storage: layer.py does.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

import torch

from .padding import Padding


if TYPE_CHECKING:
    from .layer import VecInferLayer


class CacheHandle(NamedTuple):
    """What `update` returns when the model's attention is "vecinfer": new states, and the layer that keeps the rest.

    Args:
        layer: the cache layer.
        states: new keys or values, `[B, Hkv, T, D]`, not stored yet.
    """

    layer: VecInferLayer
    states: torch.Tensor

    def __getattr__(self, name: str):
        raise AttributeError(
            f"This model reads {name!r} of the cached keys or values before its attention function sees them, so its "
            "attention cannot run on VecInfer codes. Use the stock cache for it, and report the model type."
        )


class Lengths(NamedTuple):
    """What a static cache holds before a forward pass, read from the device by the first layer for those behind it.

    Args:
        columns: columns seen, padding included.
        real: each row's real tokens.
        coded: each row's coded tokens.
        left: the layers that have not come yet, in their order. The next of them may take this, and no other.
    """

    columns: int
    real: list[int]
    coded: list[int]
    left: list[int]


class SharedState:
    """What the layers of one cache share: the model's config, for its attention implementation, and the padding.

    Args:
        model_config: config of the text model.
        layers: indices of the layers that hold codes, in their order.
    """

    def __init__(self, model_config, layers: tuple[int, ...] = (0,)):
        self.model_config = model_config
        self.layers = layers
        self.padding = Padding()
        self.lengths: Lengths | None = None
        """What the layers of the forward pass under way may take; None between passes."""
        self.uneven = False
        """Whether layers did not all come in their order, so that they may hold different tokens."""

    def __deepcopy__(self, memo):
        # The config stays the model's own: its attention implementation may change later.
        shared = SharedState(self.model_config, self.layers)
        shared.padding = copy.deepcopy(self.padding, memo)
        shared.uneven = self.uneven or self.lengths is not None
        memo[id(self)] = shared
        return shared

    @property
    def handles_wanted(self) -> bool:
        """Whether the model's attention function understands `CacheHandle`."""
        return self.model_config._attn_implementation == "vecinfer"
