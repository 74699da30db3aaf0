# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""OpaqueStates: an object in the place of cached keys or values that may only be handed on to attention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import torch


class OpaqueStates:
    """Stands for keys or values. Any use of it, an attribute, an operator or a torch function, calls `_refuse`."""

    __slots__ = ()

    def _refuse(self, use: str) -> NoReturn:
        """Raise for `use`, as in "reads 'shape' of"."""
        raise NotImplementedError

    def _lacks(self, name: str) -> NoReturn:
        """Raise for an attribute; an AttributeError, so that `hasattr` and `copy` find that the name is missing."""
        raise NotImplementedError

    def __getattr__(self, name: str):
        self._lacks(name)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        for found in _opaque((args, (kwargs or {}).values())):
            found._refuse(f"calls {getattr(function, '__name__', function)} on")


def _refusal(operator: str):
    def refuse(self: OpaqueStates, *_: Any):
        self._refuse(f"uses {operator} of")

    return refuse


for _name in (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "matmul", "rmatmul", "pow", "neg", "abs"),
    *("getitem", "setitem", "len", "iter", "contains", "bool", "float", "int", "lt", "le", "gt", "ge"),
):
    setattr(OpaqueStates, f"__{_name}__", _refusal(f"__{_name}__"))


def _opaque(arguments: Iterable[Any]) -> Iterator[OpaqueStates]:
    for argument in arguments:
        if isinstance(argument, OpaqueStates):
            yield argument
        elif isinstance(argument, Iterable) and not isinstance(argument, (str, torch.Tensor)):
            yield from _opaque(argument)
