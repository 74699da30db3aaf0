# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The fingerprint of a model's weights: a SHA-256 over a few numbers of at most 64 of its matrices.

Owns which numbers, and how they are read where weights are offloaded or spread over processes. The fingerprint is the
same however the checkpoint is cut into files, wherever the weights lie, and in bfloat16 as in float32. Weights that a
library stores as quantized numbers have a fingerprint of their own.
"""

from __future__ import annotations

import hashlib
import re
from weakref import WeakKeyDictionary

import torch
from accelerate.utils import align_module_device, has_offloaded_params
from transformers import PreTrainedConfig, PreTrainedModel

from ..config import QUANT_METHOD
from ..distributed.heads import process_group


MOST_TENSORS = 64
ROWS, COLUMNS = 4, 64
"""The corner of a matrix that is read. Under tensor parallelism it lies in the part of the first process."""
_SMALLEST = 2.0**-16
"""Numbers below this count as 0: float16 rounds them away."""
_NUMBER = re.compile(r"\d+")

_known: WeakKeyDictionary[PreTrainedModel, tuple[tuple, str]] = WeakKeyDictionary()
"""The fingerprint of each model, with what changes when its weights do."""


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Return the fingerprint of the weights, 64 hexadecimal digits.

    It takes milliseconds, on a GPU one copy to the host, and is kept until weights are changed in place or replaced.
    Processes that share a model's weights must call it together.

    Args:
        model: a transformers model whose weights are loaded; they may be offloaded to the CPU or to disk.
    """
    chosen = _chosen(model)
    state = tuple((id(module), name, *_version(getattr(module, name))) for _, module, name in chosen)
    known = _known.get(model)
    if known is None or known[0] != state:
        known = _known[model] = state, _shared(model, _digest(chosen))
    return known[1]


def quantization_of(config: PreTrainedConfig) -> str | None:
    """Return the method by which the weights of a model are quantized, or None; "vecinfer" quantizes none."""
    found = getattr(config, "quantization_config", None)
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    method = getattr(method, "value", method)
    return None if method in (None, QUANT_METHOD) else str(method)


def _chosen(model: PreTrainedModel) -> list[tuple[str, torch.nn.Module, str]]:
    """Return (full name, module, name in it) of at most 64 matrices of layers, spread evenly over their names."""
    found = []
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{prefix}.{name}" if prefix else name
            if parameter.dim() > 1 and _NUMBER.search(full):
                found.append((full, module, name))
    found.sort(key=lambda item: [(int(part) if part.isdigit() else -1, part) for part in item[0].split(".")])
    count = min(MOST_TENSORS, len(found))
    return [found[index * len(found) // count] for index in range(count)]


def _version(parameter: torch.Tensor) -> tuple[int, int]:
    """Return the identity of a parameter and how often it was changed in place; inference tensors do not count."""
    return id(parameter), 0 if parameter.is_inference() else parameter._version


@torch.no_grad()
def _digest(chosen: list[tuple[str, torch.nn.Module, str]]) -> str:
    """Return the SHA-256 of the matrices' names and corners; each device is read in one copy."""
    corners: list[torch.Tensor] = []
    for _, module, name in chosen:
        if has_offloaded_params(module):
            with align_module_device(module, torch.device("cpu")):
                corners.append(_corner(getattr(module, name)))
        else:
            corners.append(_corner(getattr(module, name)))
    places: dict[torch.device, list[int]] = {}
    for index, corner in enumerate(corners):
        places.setdefault(corner.device, []).append(index)
    for indices in places.values():
        parts = torch.cat([corners[index].flatten() for index in indices]).cpu()
        sizes = [corners[index].numel() for index in indices]
        for index, part in zip(indices, parts.split(sizes), strict=True):
            corners[index] = part
    digest = hashlib.sha256()
    for (name, _, _), corner in zip(chosen, corners, strict=True):
        digest.update(f"{name} {corner.numel()}\n".encode())
        digest.update(corner.numpy().tobytes())
    return digest.hexdigest()


def _corner(parameter: torch.Tensor) -> torch.Tensor:
    """Return the first rows and columns of a matrix, or of the first of several, as int16 `[rows, columns]`."""
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    while local.dim() > 2:
        local = local[0]
    corner = local.detach()[:ROWS, :COLUMNS]
    if not corner.is_floating_point():
        return corner.to(torch.int16).clone()
    rounded = corner.to(torch.bfloat16)
    return torch.where(rounded.abs().float() < _SMALLEST, torch.zeros_like(rounded), rounded).view(torch.int16)


def _shared(model: PreTrainedModel, digest: str) -> str:
    """Return the digest of the first process, where several share the weights of a model."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed or (getattr(model, "tp_size", None) or 1) == 1:
        return digest
    found = [digest]
    group = process_group(model)
    first = 0 if group is None else torch.distributed.get_global_rank(group, 0)
    torch.distributed.broadcast_object_list(found, src=first, group=group)
    return found[0]
