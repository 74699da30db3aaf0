# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Fake implementations for torch.compile: the shapes and dtypes of results, nothing computed.

`quantize` and `append` only change their arguments, as their schemas say, so their fakes return nothing.
"""

import torch

from ._ops import add_op_namespace_prefix


@torch.library.register_fake(add_op_namespace_prefix("quantize"))
def _quantize(*args):
    return None


@torch.library.register_fake(add_op_namespace_prefix("append"))
def _append(*args):
    return None


@torch.library.register_fake(add_op_namespace_prefix("decode_attention"))
def _decode_attention(query, *args):
    return torch.empty_like(query, memory_format=torch.contiguous_format), query.new_empty(
        query.shape[:3], dtype=torch.float32
    )


@torch.library.register_fake(add_op_namespace_prefix("dequantize"))
def _dequantize(
    codes,
    key_mean,
    query_transform,
    key_centroids,
    key_centroid_scale,
    value_mean,
    output_transform,
    value_centroids,
    value_centroid_scale,
    start,
    length,
    dtype,
):
    shape = (codes.shape[0], codes.shape[1], length, query_transform.shape[-1])
    return codes.new_empty(shape, dtype=dtype), codes.new_empty(shape, dtype=dtype)
