# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The choice between the operators' backends: compiled kernels where they run, plain torch elsewhere.

Owns the choice and its announcement. reference.py is the specification of the operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers.utils import logging

from ..errors import BackendError
from ..quantization.formats import CodeFormat
from . import kernels, reference, reference_ops
from .kernel_loader import HOW_TO_GET_THEM, kernel_candidates, load_kernels


logger = logging.get_logger(__name__)


class Backend(NamedTuple):
    """The four operators of one implementation; their arguments and results are those of reference.py.

    Args:
        name: "cuda", "cpu" or "reference"; `backend(name)` gives the backend again, so that only the name is pickled.
        quantize: tokens to codes.
        append: new tokens to sinks and ring, and from the ring to codes.
        decode_attention: attention of a few query tokens over sinks, codes and ring.
        dequantize: codes to tokens.
    """

    name: str
    quantize: Callable[..., None]
    append: Callable[..., None]
    decode_attention: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    dequantize: Callable[..., tuple[torch.Tensor, torch.Tensor]]


_KERNELS = kernels.quantize, kernels.append, kernels.decode_attention, kernels.dequantize
_BACKENDS = {
    "cuda": Backend("cuda", *_KERNELS),
    "cpu": Backend("cpu", *_KERNELS),
    # Their decode step reads lengths on the host: torch.compile must not look inside.
    "reference": Backend(
        "reference",
        reference.quantize,
        reference_ops.append,
        reference_ops.decode_attention,
        reference.dequantize,
    ),
}


def backend(name: str) -> Backend:
    """Return the backend of a name.

    Raises:
        BackendError: if there is none of that name.
    """
    if name not in _BACKENDS:
        raise BackendError(f"There is no backend {name!r}; there are {', '.join(map(repr, _BACKENDS))}.")
    return _BACKENDS[name]


def select_backend(
    ops_backend: str,
    device: torch.device,
    dtype: torch.dtype,
    key_head_dim: int,
    value_head_dim: int,
    group: int,
    formats: tuple[CodeFormat, CodeFormat],
) -> Backend:
    """Return the backend that serves a layer.

    Args:
        ops_backend: "auto", "cuda", "cpu" or "reference".
        device: where the cache lives.
        dtype: dtype of the keys and values.
        key_head_dim: elements of a query or key.
        value_head_dim: elements of a value.
        group: query heads per key/value head.
        formats: the layer's key and value format.

    Raises:
        BackendError: if "cuda" or "cpu" was asked for and its kernels cannot serve this layer; the message says why.
    """
    if ops_backend == "reference":
        return backend("reference")
    wanted = device.type if ops_backend == "auto" else ops_backend
    reason = _why_not_kernels(wanted, device, dtype, key_head_dim, value_head_dim, group, formats)
    if reason is None:
        return backend(wanted)
    if ops_backend in ("cuda", "cpu"):
        raise BackendError(
            f'ops_backend="{ops_backend}" needs the compiled kernels, but {reason}. `vecinfer doctor` tells more; '
            'ops_backend="auto" falls back to torch.'
        )
    logger.warning_once(
        f"vecinfer: using the plain torch operators (slow, same results) on {device.type}, because {reason}."
    )
    return backend("reference")


def _why_not_kernels(wanted, device, dtype, key_head_dim, value_head_dim, group, formats) -> str | None:
    if wanted not in ("cuda", "cpu"):
        return f"the compiled kernels need a CUDA device or a CPU and the model is on {device.type}"
    if device.type != wanted:
        needed = "a CUDA device" if wanted == "cuda" else "a CPU"
        return f"these compiled kernels need {needed} and the model is on {device.type}"
    if load_kernels(wanted) is None:
        tried = "; ".join(f"{candidate.source}: {candidate.reason}" for candidate in kernel_candidates(wanted))
        return f"no compiled kernels were found ({HOW_TO_GET_THEM}; tried: {tried})"
    if wanted == "cpu":
        return kernels.why_unsupported_on_cpu(key_head_dim, value_head_dim, dtype, *formats)
    return kernels.why_unsupported(key_head_dim, value_head_dim, group, dtype, *formats, device)
