# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The transformers model inside a wrapper."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from ..errors import UnsupportedModelError


def unwrapped(model: torch.nn.Module) -> PreTrainedModel:
    """Return the transformers model inside a wrapper: PEFT's, `torch.compile`'s or a data-parallel one.

    Raises:
        UnsupportedModelError: if there is none.
    """
    inner: Any = model
    while not isinstance(inner, PreTrainedModel):
        if callable(getattr(inner, "get_base_model", None)):
            inner = inner.get_base_model()
        elif isinstance(getattr(inner, "_orig_mod", None), torch.nn.Module):
            inner = inner._orig_mod
        elif isinstance(getattr(inner, "module", None), torch.nn.Module):
            inner = inner.module
        else:
            raise UnsupportedModelError(
                f"{type(model).__name__} is no transformers model and no known wrapper of one; give the "
                "PreTrainedModel inside it."
            )
    return inner
