# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The bytes of a codebook and of what it codes, from shapes and formats alone.

quantization/formats.py counts the bits per element. What is allocated is counted by the tensors' own `nbytes`.
"""

from __future__ import annotations

from ..model_info import HeadShape
from ..quantization.formats import CodeFormat
from ..quantization.packing import TILE, bytes_per_tile
from .tensors import MATRIX, LayerForm


def bytes_per_token(shape: HeadShape, formats: tuple[CodeFormat, CodeFormat]) -> float:
    """Return the bytes of one coded token of one sequence in one layer, padding of the tiles included.

    Args:
        shape: the layer's heads.
        formats: its key and value format.
    """
    return shape.num_key_value_heads * bytes_per_tile(*formats, shape.key_head_dim, shape.value_head_dim) / TILE


def layer_nbytes(shape: HeadShape, form: LayerForm) -> int:
    """Return the bytes of a layer's codebook in memory, `LayerCodebook.nbytes`.

    Args:
        shape: the layer's heads.
        form: its formats, transforms and means.
    """
    total = 0
    for side, dim in ((form.key, shape.key_head_dim), (form.value, shape.value_head_dim)):
        fmt = side.code_format
        centroids = fmt.num_codes * fmt.codebook_size * fmt.subvector_dim
        # Transform and inverse, mean, scale: float32.
        transform = 0 if side.transform is None else 2 * dim * (dim if side.transform == MATRIX else 1)
        total += centroids + 4 * (transform + (dim if side.mean else 0) + 1)
    return shape.num_key_value_heads * total
