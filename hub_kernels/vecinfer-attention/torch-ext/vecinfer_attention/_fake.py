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
def _decode_attention(query, codes, block_table, sink_keys, sink_values, *args):
    shape = query.shape[:3]
    return query.new_empty((*shape, sink_values.shape[3])), query.new_empty(shape, dtype=torch.float32)


@torch.library.register_fake(add_op_namespace_prefix("dequantize"))
def _dequantize(
    codes,
    block_table,
    key_mean,
    query_transform,
    key_centroids,
    key_centroid_scale,
    value_mean,
    output_transform,
    value_centroids,
    value_centroid_scale,
    value_head_dim,
    start,
    length,
    dtype,
):
    batch = codes.shape[0] if block_table is None else block_table.shape[0]
    return tuple(
        codes.new_empty((batch, codes.shape[1], length, head_dim), dtype=dtype)
        for head_dim in (query_transform.shape[-1], value_head_dim)
    )
