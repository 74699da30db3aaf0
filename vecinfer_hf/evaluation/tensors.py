# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Find every tensor an object keeps alive. Owns the walk over containers and attributes, not what is done with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import torch


def tensors_in(root: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor reachable from `root` through containers and instance attributes, each object once.

    Modules, classes and functions are not entered: a cache that reached its model would count the weights.
    """
    seen: set[int] = set()
    pending = [root]
    while pending:
        value = pending.pop()
        if id(value) in seen or isinstance(value, (type, ModuleType, torch.nn.Module)) or callable(value):
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            if value.device.type != "meta":
                yield value
        elif isinstance(value, Mapping):
            pending.extend(value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            pending.extend(value)
        elif hasattr(value, "__dict__"):
            pending.extend(vars(value).values())
