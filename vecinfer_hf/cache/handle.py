# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""CacheHandle: what a layer's `update` returns instead of tensors, for the attention function "vecinfer"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UnsupportedCallError


if TYPE_CHECKING:
    from .layer import VecInferLayer


class CacheHandle:
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

    def __getattr__(self, name: str):
        if not name.startswith("__"):
            self.layer.forward_pass.abandon()
        raise _NoSuchAttribute(_sentence(f"reads {name!r} of"))

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        for handle in _handles((args, (kwargs or {}).values())):
            handle.layer.forward_pass.abandon()
        raise UnsupportedCallError(_sentence(f"calls {getattr(function, '__name__', function)} on"))


class _NoSuchAttribute(UnsupportedCallError, AttributeError):
    """An AttributeError too, so that `hasattr` and `copy` find that a handle lacks the name."""


def _refusal(operator: str):
    def refuse(self: CacheHandle, *_: Any):
        self.layer.forward_pass.abandon()
        raise UnsupportedCallError(_sentence(f"uses {operator} of"))

    return refuse


for _name in (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "matmul", "rmatmul", "pow", "neg", "abs"),
    *("getitem", "setitem", "len", "iter", "contains", "bool", "float", "int", "lt", "le", "gt", "ge"),
):
    setattr(CacheHandle, f"__{_name}__", _refusal(f"__{_name}__"))


def _handles(arguments: Iterable[Any]) -> Iterator[CacheHandle]:
    for argument in arguments:
        if isinstance(argument, CacheHandle):
            yield argument
        elif isinstance(argument, Iterable) and not isinstance(argument, (str, torch.Tensor)):
            yield from _handles(argument)


def _sentence(use: str) -> str:
    return (
        f'The model {use} the cached keys or values, but a VecInfer cache holds codes that only "vecinfer" attention '
        "reads. Switch the model's attention with `vecinfer_hf.enable(model, codebook)` (generate does it by itself); "
        "a model that computes its attention in another way needs the default cache."
    )
