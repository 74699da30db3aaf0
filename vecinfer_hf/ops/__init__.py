# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The operators and the choice between their backends: compiled kernels where they run, plain torch elsewhere.

Owns the choice and its announcement. reference.py is the specification, kernels.py loads the compiled operators.
"""

from __future__ import annotations

from types import ModuleType

import torch
from transformers.utils import logging

from ..quantization.formats import CodeFormat
from . import reference
from .types import CacheBuffers, LayerCodebook


__all__ = ["MAX_DECODE_QUERIES", "CacheBuffers", "LayerCodebook", "select_backend"]

MAX_DECODE_QUERIES = 16
"""Query tokens that `decode_attention` takes at once; longer queries go through blocks."""

logger = logging.get_logger(__name__)


def select_backend(
    ops_backend: str,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    group: int,
    formats: tuple[CodeFormat, CodeFormat],
) -> ModuleType:
    """Return the module whose `quantize`, `append`, `decode_attention` and `dequantize` serve this layer.

    Args:
        ops_backend: "auto", "cuda" or "reference".
        device: where the cache lives.
        dtype: dtype of the keys and values.
        head_dim: elements per head.
        group: query heads per key/value head.
        formats: the layer's key and value format.

    Raises:
        RuntimeError: if "cuda" was asked for and the kernels cannot serve this layer; the message says why.
    """
    if ops_backend == "reference":
        return reference
    reason = _why_not_kernels(device, dtype, head_dim, group, formats)
    if reason is None:
        from . import kernels

        return kernels
    if ops_backend == "cuda":
        raise RuntimeError(
            f'ops_backend="cuda" needs the compiled kernels, but {reason}. `vecinfer doctor` tells more; '
            'ops_backend="auto" falls back to torch.'
        )
    logger.warning_once(
        f"vecinfer: using the plain torch operators (slow, same results) on {device.type}, because {reason}."
    )
    return reference


def _why_not_kernels(device, dtype, head_dim, group, formats) -> str | None:
    if device.type != "cuda":
        return f"the compiled kernels need a CUDA device and the model is on {device.type}"
    from . import kernels

    if kernels.load_kernels() is None:
        tried = "; ".join(f"{candidate.source}: {candidate.reason}" for candidate in kernels.kernel_candidates())
        return f"no compiled kernels were found ({tried})"
    return kernels.supports(head_dim, group, dtype, *formats, device)
