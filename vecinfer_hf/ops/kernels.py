# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The calls into the compiled operators, and what these support.

Owns the adapters from our tuples to the kernels' flat arguments. What the operators do is said in reference.py;
kernel_loader.py finds the kernels. torch.compile traces these functions down to the kernels' own operators.
"""

from __future__ import annotations

from types import ModuleType

import torch

from ..errors import BackendError
from ..quantization.formats import CodeFormat
from .kernel_loader import kernel_candidates, load_kernels
from .types import Buffers, LayerCodebook


__all__ = ["append", "decode_attention", "dequantize", "quantize", "why_unsupported", "why_unsupported_on_cpu"]

HEAD_DIMS = (64, 80, 96, 128, 256)
MAX_GROUP = 16
MIN_CAPABILITY = (8, 0)
CPU_LARGEST_HEAD_DIM = 512


def why_unsupported(
    key_head_dim: int,
    value_head_dim: int,
    group: int,
    dtype: torch.dtype,
    key_format: CodeFormat,
    value_format: CodeFormat,
    device: torch.device,
) -> str | None:
    """Return why the compiled operators cannot serve such a layer, or None if they can.

    Args:
        key_head_dim: elements of a query or key.
        value_head_dim: elements of a value.
        group: query heads per key/value head.
        dtype: dtype of queries, keys and values.
        key_format: code format of the keys.
        value_format: code format of the values.
        device: where the cache lives.
    """
    if device.type != "cuda":
        return f"the compiled kernels need a CUDA device, not {device.type}"
    if value_head_dim != key_head_dim:
        return f"values have head_dim {value_head_dim} and keys {key_head_dim}; the compiled kernels need equal ones"
    if key_head_dim not in HEAD_DIMS:
        return f"head_dim {key_head_dim} is not compiled; {', '.join(map(str, HEAD_DIMS))} are"
    if not 1 <= group <= MAX_GROUP:
        return f"{group} query heads per key/value head are not supported; 1 to {MAX_GROUP} are"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"{dtype} is not supported; torch.bfloat16 and torch.float16 are"
    for fmt in (key_format, value_format):
        if key_head_dim % fmt.subvector_dim:
            return f"head_dim {key_head_dim} is not divisible by the {fmt.subvector_dim} elements of format {fmt.name}"
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        return f"compute capability {capability[0]}.{capability[1]} is too low; 8.0 or higher is needed"
    return None


def why_unsupported_on_cpu(
    key_head_dim: int, value_head_dim: int, dtype: torch.dtype, key_format: CodeFormat, value_format: CodeFormat
) -> str | None:
    """Return why the CPU's compiled operators cannot serve such a layer, or None; arguments as `why_unsupported`."""
    for name, size, fmt in (("keys", key_head_dim, key_format), ("values", value_head_dim, value_format)):
        if size % 8 or not 8 <= size <= CPU_LARGEST_HEAD_DIM:
            return f"{name} have head_dim {size}; multiples of 8 up to {CPU_LARGEST_HEAD_DIM} are supported on a CPU"
        if size % fmt.subvector_dim:
            return f"head_dim {size} is not divisible by the {fmt.subvector_dim} elements of format {fmt.name}"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"{dtype} is not supported; torch.float32, torch.bfloat16 and torch.float16 are"
    return None


def quantize(
    key_states: torch.Tensor,
    value_states: torch.Tensor,
    buffers: Buffers,
    starts: torch.Tensor,
    counts: torch.Tensor,
    first: torch.Tensor,
    codebook: LayerCodebook,
) -> None:
    """See `reference.quantize`."""
    states = _last_contiguous(key_states), _last_contiguous(value_states)
    _module(key_states).quantize(
        *states, buffers.codes, buffers.block_table, starts, counts, first, *_writing(codebook)
    )


def append(key_states: torch.Tensor, value_states: torch.Tensor, buffers: Buffers, codebook: LayerCodebook) -> None:
    """See `reference.append`; at most 16 tokens. Lengths stay on the device: no synchronization."""
    states = _last_contiguous(key_states), _last_contiguous(value_states)
    _module(key_states).append(*states, *_flat(buffers), *_writing(codebook))


def decode_attention(
    query: torch.Tensor,
    buffers: Buffers,
    codebook: LayerCodebook,
    softmax_scale: float,
    softcap: float = 0.0,
    sink_logits: torch.Tensor | None = None,
    num_splits: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `reference.decode_attention`; at most 16 query tokens."""
    return _module(query).decode_attention(
        _last_contiguous(query),
        *_flat(buffers),
        *_reading(codebook),
        softmax_scale,
        softcap,
        # A model keeps them in its own dtype.
        None if sink_logits is None else sink_logits.float(),
        num_splits,
    )


def dequantize(
    buffers: Buffers, codebook: LayerCodebook, start: int, length: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `reference.dequantize`."""
    # Codes and centroids alone do not tell a value's head size.
    value_head_dim = buffers.ring_values.shape[3]
    return _module(buffers.codes).dequantize(
        buffers.codes, buffers.block_table, *_reading(codebook), value_head_dim, start, length, dtype
    )


def _module(tensor: torch.Tensor) -> ModuleType:
    """Return the kernels for the device of a tensor."""
    device_type = tensor.device.type
    module = load_kernels(device_type)
    if module is None:
        tried = "; ".join(f"{candidate.source}: {candidate.reason}" for candidate in kernel_candidates(device_type))
        raise BackendError(f"No compiled kernels were found ({tried}); use the reference operators instead.")
    return module


def _last_contiguous(states: torch.Tensor) -> torch.Tensor:
    return states if states.stride(-1) == 1 else states.contiguous()


def _flat(buffers: Buffers) -> tuple[torch.Tensor | None, ...]:
    """Return the buffers in the operators' order."""
    b = buffers
    return (
        b.codes,
        b.block_table,
        b.sink_keys,
        b.sink_values,
        b.ring_keys,
        b.ring_values,
        b.lengths,
        b.quantized_lengths,
    )


def _writing(codebook: LayerCodebook) -> tuple[torch.Tensor | None, ...]:
    """Return the tensors that quantize, in the operators' order."""
    c = codebook
    return (
        c.key_mean,
        c.key_transform,
        c.key_centroids,
        c.key_centroid_scale,
        c.value_mean,
        c.value_transform,
        c.value_centroids,
        c.value_centroid_scale,
    )


def _reading(codebook: LayerCodebook) -> tuple[torch.Tensor | None, ...]:
    """Return the tensors that attention and dequantize read, in the operators' order."""
    c = codebook
    return (
        c.key_mean,
        c.query_transform,
        c.key_centroids,
        c.key_centroid_scale,
        c.value_mean,
        c.output_transform,
        c.value_centroids,
        c.value_centroid_scale,
    )
