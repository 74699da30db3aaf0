# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""CacheHandle: what a layer's `update` returns instead of tensors, for the attention function "vecinfer"."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import torch

from ..errors import UnsupportedCallError
from ..model_info.opaque import OpaqueStates


if TYPE_CHECKING:
    from .layer import VecInferLayer


class CacheHandle(OpaqueStates):
    """New states that are not stored yet, and the layer that stores them when it attends.

    Only the attention function "vecinfer" can use it. Any other use, an attribute, an operator or a torch function, is
    refused with a sentence; the cache is then as it was before the call.

    Args:
        layer: the cache layer.
        states: new keys or values, `[B, Hkv, T, D]`.
    """

    __slots__ = ("layer", "states")

    def __init__(self, layer: VecInferLayer, states: torch.Tensor):
        self.layer = layer
        self.states = states

    def to(self, device: torch.device | str, **kwargs) -> CacheHandle:
        """Return the handle; models move keys that layers share to the device of the layer, where they are already."""
        if torch.device(device).type != self.states.device.type or torch.device(device).index not in (
            None,
            self.states.device.index,
        ):
            self._refuse(f"moves to {device}")
        return self

    def _refuse(self, use: str) -> NoReturn:
        self.layer.forward_pass.abandon()
        raise UnsupportedCallError(_sentence(use))

    def _lacks(self, name: str) -> NoReturn:
        if not name.startswith("__"):
            self.layer.forward_pass.abandon()
        raise _NoSuchAttribute(_sentence(f"reads {name!r} of"))


class _NoSuchAttribute(UnsupportedCallError, AttributeError):
    """An AttributeError too, so that `hasattr` and `copy` find that a handle lacks the name."""


def _sentence(use: str) -> str:
    return (
        f'The model {use} the cached keys or values, but a VecInfer cache holds codes that only "vecinfer" attention '
        "reads. Switch the model's attention with `vecinfer_hf.enable(model, codebook)` (generate does it by itself); "
        "a model that computes its attention in another way needs the default cache."
    )
