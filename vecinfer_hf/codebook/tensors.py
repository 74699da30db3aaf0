# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""codebook.safetensors: the names, dtypes and shapes of its tensors, and LayerCodebooks from them and to them.

For layer `i` and side `s` ("key" or "value") the file has tensors `layers.{i}.{s}.{part}`:

    centroids       int8 [Hkv, num_codes, 2**bits_per_code, subvector_dim]
    centroid_scale  float32 [Hkv]
    mean            float32 [Hkv, D], optional
    smooth_scale    float32 [Hkv, D]; the transform is its reciprocal, then Hadamard; or
    matrix          float16 or float32 [Hkv, D, D], the transform itself; a key has one of the two, a value at most one

The parts `gain` and `table` are reserved for later versions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from ..errors import CodebookError
from ..model_info import HeadShape
from ..ops.types import LayerCodebook
from ..quantization.formats import CodeFormat, implied_format
from ..quantization.transforms import query_from_key_transform
from .bounds import check_side


MATRIX, SMOOTH_SCALE = TRANSFORMS = ("matrix", "smooth_scale")
RESERVED = ("gain", "table")
_NAME = re.compile(r"layers\.(0|[1-9][0-9]{0,5})\.(key|value)\.([a-z_]{1,20})")
_PARTS = ("centroids", "centroid_scale", "mean", *TRANSFORMS)


class SideForm(NamedTuple):
    """The form of a layer's keys or values: code format, kind of transform ("matrix", "smooth_scale", None), mean."""

    code_format: CodeFormat
    transform: str | None
    mean: bool


class LayerForm(NamedTuple):
    """The forms of a layer's keys and values."""

    key: SideForm
    value: SideForm


Header = Mapping[str, tuple[str, tuple[int, ...]]]
"""Tensor name -> safetensors dtype and shape."""


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the header of a safetensors file; no tensor is read.

    Raises:
        CodebookError: if the file is missing, truncated or of another kind.
    """
    with _opened(path) as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}


def read_layers(path: Path, shapes: Mapping[int, HeadShape]) -> dict[int, LayerCodebook]:
    """Return the layers in a file.

    The header is checked before any tensor is read, so nothing is allocated for a file that does not fit.

    Args:
        path: the file.
        shapes: layer index -> HeadShape of the layers that it must have, and no others.

    Raises:
        CodebookError: if the file is damaged, has other tensors, dtypes or shapes, or numbers out of their bounds.
    """
    layer_forms(read_header(path), shapes, path)
    layers = {}
    with _opened(path) as file:
        for index, shape in shapes.items():
            prefix = f"layers.{index}."
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
            layers[index] = _layer(tensors, shape, f"{path}: {prefix}")
    return layers


def layer_forms(header: Header, shapes: Mapping[int, HeadShape], path: Path) -> dict[int, LayerForm]:
    """Return the form of each layer; CodebookError unless a file's tensors are those of layers with these shapes."""
    parts: dict[tuple[int, str], dict[str, str]] = {(i, side): {} for i in shapes for side in ("key", "value")}
    for name in header:
        match = _NAME.fullmatch(name)
        if match and match[3] in RESERVED:
            raise CodebookError(
                f"{path} has the tensor {name}, which needs a newer version of vecinfer_hf; upgrade with "
                "`pip install -U vecinfer-hf`."
            )
        if not match or match[3] not in _PARTS or (int(match[1]), match[2]) not in parts:
            raise CodebookError(f"{path} has the unexpected tensor {name[:100]!r}; {_REMEDY}")
        parts[int(match[1]), match[2]][match[3]] = name
    forms = {}
    for index, shape in shapes.items():
        key = _side_form(header, parts[index, "key"], index, "key", shape, path)
        forms[index] = LayerForm(key, _side_form(header, parts[index, "value"], index, "value", shape, path))
    return forms


def layer_tensors(index: int, layer: LayerCodebook) -> dict[str, torch.Tensor]:
    """Return the tensors that are stored for a layer, under their names in the file."""
    named = {
        "key.mean": layer.key_mean,
        "key.centroids": layer.key_centroids,
        "key.centroid_scale": layer.key_centroid_scale,
        "value.mean": layer.value_mean,
        "value.centroids": layer.value_centroids,
        "value.centroid_scale": layer.value_centroid_scale,
    }
    # Of a diagonal transform the reciprocal is stored, of a full one the matrix.
    for side, transform, inverse in (
        ("key", layer.key_transform, layer.query_transform),
        ("value", layer.value_transform, layer.output_transform),
    ):
        if transform is not None:
            full = transform.dim() == 3
            named[f"{side}.{MATRIX if full else SMOOTH_SCALE}"] = _as_stored(transform) if full else inverse
    return {
        f"layers.{index}.{name}": tensor.detach().cpu().clone().contiguous()
        for name, tensor in named.items()
        if tensor is not None
    }


def file_content(layers: Mapping[int, LayerCodebook], shapes: Mapping[int, HeadShape]) -> bytes:
    """Return the content of codebook.safetensors; CodebookError for layers that could not be loaded again."""
    tensors: dict[str, torch.Tensor] = {}
    for index, layer in layers.items():
        own = layer_tensors(index, layer)
        tensors.update(own)
        prefix = f"layers.{index}."
        names = {"float16": "F16", "float32": "F32", "int8": "I8"}
        header = {
            name: (names.get(str(tensor.dtype).removeprefix("torch."), str(tensor.dtype)), tuple(tensor.shape))
            for name, tensor in own.items()
        }
        layer_forms(header, {index: shapes[index]}, Path("This codebook"))
        parts = {name.removeprefix(prefix): tensor for name, tensor in own.items()}
        _layer(parts, shapes[index], f"This codebook: {prefix}")
    # One entry of metadata: safetensors writes several in any order, and equal codebooks must be equal files.
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


_REMEDY = "the file does not fit its config.json. Download or calibrate the codebook again."


@contextmanager
def _opened(path: Path) -> Iterator:
    """Open a safetensors file; errors of reading it become CodebookErrors."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CodebookError(
            f"{path} is not a readable safetensors file ({error}); it is truncated or of another kind. "
            "Download it again or calibrate again."
        ) from error


def _side_form(header: Header, parts: dict[str, str], index: int, side: str, shape: HeadShape, path: Path) -> SideForm:
    """Return the form of one side of a layer, whose parts have these names in the header."""
    where = f"layers.{index}.{side}"
    heads, dim = shape.num_key_value_heads, shape.key_head_dim if side == "key" else shape.value_head_dim
    transforms = [part for part in TRANSFORMS if part in parts]
    lacking = [part for part in ("centroids", "centroid_scale") if part not in parts]
    if side == "key" and not transforms:
        lacking.append(" or ".join(TRANSFORMS))
    if lacking:
        raise CodebookError(f"{path} lacks the tensor {where}.{lacking[0]}; {_REMEDY}")
    if len(transforms) > 1:
        raise CodebookError(f"{path} has both {where}.matrix and {where}.smooth_scale; {_REMEDY}")
    dtype, centroids = header[parts["centroids"]]
    try:
        if dtype != "I8" or len(centroids) != 4 or centroids[0] != heads:
            raise ValueError(f"it must be I8 [{heads}, num_codes, 2**bits_per_code, subvector_dim].")
        code_format = implied_format(centroids)
        code_format.num_subvectors(dim)
    except ValueError as error:
        raise CodebookError(
            f"{path}: tensor {where}.centroids is {dtype} {list(centroids)}, but {error} Here {_REMEDY}"
        ) from error
    wanted = {
        "centroid_scale": (("F32",), (heads,)),
        "mean": (("F32",), (heads, dim)),
        SMOOTH_SCALE: (("F32",), (heads, dim)),
        MATRIX: (("F16", "F32"), (heads, dim, dim)),
    }
    for part, name in parts.items():
        dtypes, size = wanted.get(part, (("I8",), centroids))
        if header[name][0] not in dtypes or header[name][1] != size:
            found = f"{header[name][0]} {list(header[name][1])}"
            raise CodebookError(
                f"{path}: tensor {name} is {found}, but it must be {' or '.join(dtypes)} {list(size)}; {_REMEDY}"
            )
    return SideForm(code_format, transforms[0] if transforms else None, "mean" in parts)


def _as_stored(matrix: torch.Tensor) -> torch.Tensor:
    """Return full matrices `[Hkv, D, D]` in half the bytes if nothing is lost, which is how calibration makes them."""
    half = matrix.half()
    return half if torch.equal(half.float(), matrix) else matrix


def _layer(tensors: dict[str, torch.Tensor], shape: HeadShape, where: str) -> LayerCodebook:
    """Return the layer of checked dtypes and shapes; CodebookError if its numbers break their bounds."""
    sides = []
    for side, head_dim in (("key", shape.key_head_dim), ("value", shape.value_head_dim)):
        own = {
            name.removeprefix(f"{side}."): tensor for name, tensor in tensors.items() if name.startswith(f"{side}.")
        }
        for part, tensor in own.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise CodebookError(f"{where}{side}.{part} has NaN or Inf. Download or calibrate the codebook again.")
        transform, inverse = _transform(own, f"{where}{side}")
        mean, centroids, scale = own.get("mean"), own["centroids"], own["centroid_scale"]
        check_side(mean, transform, inverse, centroids, scale, head_dim, f"{where}{side}")
        if side == "key" and inverse.dim() == 3:
            inverse = inverse.transpose(-1, -2).contiguous()
        sides.append((mean, transform, inverse, centroids, scale))
    return LayerCodebook(*sides[0], *sides[1])


def _transform(own: dict[str, torch.Tensor], where: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the transform `T` of one side and its inverse, float32 `[Hkv, D]` or `[Hkv, D, D]`, or None twice."""
    scale, matrix = own.get(SMOOTH_SCALE), own.get(MATRIX)
    if scale is not None:
        if not (scale > 0).all():
            raise CodebookError(f"{where}.{SMOOTH_SCALE} must be positive everywhere. Calibrate again.")
        return 1.0 / scale, scale
    if matrix is None:
        return None, None
    matrix = matrix.float()
    try:
        return matrix, query_from_key_transform(matrix).transpose(-1, -2).contiguous()
    except torch.linalg.LinAlgError as error:
        raise CodebookError(f"{where}.{MATRIX} has no inverse ({error}). Calibrate again.") from error
