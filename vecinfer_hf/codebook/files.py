# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a codebook: what config.json promises, what codebook.safetensors must hold, and every check between.

Owns the file format. codebook.py owns the object; hub.py moves the files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..calibration_config import CalibrationConfig
from ..errors import CodebookError
from ..ops.types import LayerCodebook
from ..quantization.formats import parse_format
from ..quantization.transforms import query_from_key_transform


FORMAT_VERSION = 1
CONFIG_NAME = "config.json"
TENSORS_NAME = "codebook.safetensors"
_MAX_HEADS = 4096
_MAX_HEAD_DIM = 1024


def read_layers(directory: Path, description: dict[str, Any]) -> dict[int, LayerCodebook]:
    """Return the layers in `directory`, whose config.json said `description`.

    The header is compared with what the config promises before any tensor is read, so nothing large is allocated for
    a file that lies.

    Raises:
        CodebookError: if the file is missing, damaged, of other shapes or dtypes, or has NaN or Inf.
    """
    plan = _expected_tensors(description, directory)
    path = directory / TENSORS_NAME
    if not path.is_file():
        raise CodebookError(f"{directory} has no {TENSORS_NAME}; the codebook is incomplete, download it again.")
    layers = {}
    try:
        with safe_open(path, framework="pt") as file:
            _check_header(file, plan, path)
            for entry in description["layers"]:
                prefix = f"layers.{entry['index']}."
                tensors = {key.removeprefix(prefix): file.get_tensor(key) for key in plan if key.startswith(prefix)}
                for key, tensor in tensors.items():
                    if tensor.is_floating_point() and not tensor.isfinite().all():
                        raise CodebookError(f"{path}: tensor {prefix}{key} has NaN or Inf; calibrate again.")
                layers[entry["index"]] = _layer_from_tensors(tensors, f"{path}: {prefix}")
    except (SafetensorError, OSError) as error:
        raise CodebookError(
            f"{path} is not a readable safetensors file ({error}); it is truncated or of another kind. "
            "Download it again or calibrate again."
        ) from error
    return layers


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
    if layer.key_transform.dim() == 3:
        named["key.matrix"] = _as_stored(layer.key_transform)
    else:
        named["key.smooth_scale"] = layer.query_transform
    if layer.value_transform is not None:
        if layer.value_transform.dim() == 3:
            named["value.matrix"] = _as_stored(layer.value_transform)
        else:
            named["value.smooth_scale"] = layer.output_transform
    return {
        f"layers.{index}.{name}": tensor.clone().contiguous() for name, tensor in named.items() if tensor is not None
    }


def _as_stored(matrix: torch.Tensor) -> torch.Tensor:
    """Return full matrices in half the bytes if nothing is lost, which is how calibration makes them."""
    half = matrix.half()
    return half if torch.equal(half.float(), matrix) else matrix


def _layer_from_tensors(tensors: dict[str, torch.Tensor], where: str) -> LayerCodebook:
    transforms = {}
    for side in ("key", "value"):
        scale, matrix = tensors.get(f"{side}.smooth_scale"), tensors.get(f"{side}.matrix")
        if scale is not None:
            if not (scale > 0).all():
                raise CodebookError(f"{where}{side}.smooth_scale must be positive everywhere; calibrate again.")
            transforms[side] = (1.0 / scale, scale)
        elif matrix is not None:
            matrix = matrix.float()
            try:
                inverse = query_from_key_transform(matrix)
            except torch.linalg.LinAlgError as error:
                raise CodebookError(f"{where}{side}.matrix has no inverse ({error}); calibrate again.") from error
            transforms[side] = (matrix, inverse if side == "key" else inverse.transpose(-1, -2).contiguous())
        else:
            transforms[side] = (None, None)
        if not all(part is None or part.isfinite().all() for part in transforms[side]):
            kind = "matrix" if scale is None else "smooth_scale"
            raise CodebookError(f"{where}{side}.{kind} is so small that its inverse overflows; calibrate again.")
        if not (tensors[f"{side}.centroid_scale"] > 0).all():
            raise CodebookError(f"{where}{side}.centroid_scale must be positive; calibrate again.")
    return LayerCodebook(
        tensors.get("key.mean"),
        *transforms["key"],
        tensors["key.centroids"],
        tensors["key.centroid_scale"],
        tensors.get("value.mean"),
        *transforms["value"],
        tensors["value.centroids"],
        tensors["value.centroid_scale"],
    )


def read_description(directory: Path) -> dict[str, Any]:
    """Return the content of config.json.

    Raises:
        CodebookError: if it is missing, not JSON, or of an unknown format version.
    """
    path = directory / CONFIG_NAME
    if not path.is_file():
        raise CodebookError(
            f"{directory} has no {CONFIG_NAME}, so it is not a codebook; make one with `vecinfer calibrate`."
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version = description["format_version"]
        if type(version) is not int:
            raise TypeError(f"format_version is {version!r}")
    except (ValueError, TypeError, KeyError) as error:
        raise CodebookError(
            f"{path} is not a codebook's config ({error!r}); download or calibrate it again."
        ) from error
    if version > FORMAT_VERSION:
        raise CodebookError(
            f"{path} has format version {version}, this vecinfer_hf reads up to {FORMAT_VERSION}; "
            "upgrade with `pip install -U vecinfer-hf`."
        )
    if version < 1:
        raise CodebookError(f"{path} has format version {version}; the first is 1. Calibrate again.")
    for key, kind in (("model", dict), ("layers", list), ("vecinfer_config", dict)):
        if not isinstance(description.get(key), kind):
            raise CodebookError(
                f"{path}: {key!r} must be a {kind.__name__}; download or calibrate the codebook again."
            )
    return description


def read_config(description: dict[str, Any], directory: Path) -> CalibrationConfig:
    """Return the CalibrationConfig in `description`."""
    try:
        return CalibrationConfig.from_version_0_1(description["vecinfer_config"], description.get("provenance") or {})
    except (ValueError, TypeError) as error:
        raise CodebookError(
            f"{directory / CONFIG_NAME} has options that cannot be read: {error} If a newer version made it, upgrade "
            "with `pip install -U vecinfer-hf`; else calibrate again."
        ) from error


def _expected_tensors(description: dict[str, Any], directory: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor name -> safetensors dtype(s) and shape that config.json promises; nothing is allocated for them here."""
    plan: dict[str, tuple[str, tuple[int, ...]]] = {}
    path = directory / CONFIG_NAME
    try:
        for entry in description["layers"]:
            sizes = [entry[key] for key in ("index", "num_key_value_heads", "head_dim")]
            if any(type(size) is not int for size in sizes):
                raise TypeError(f"{sizes} are not all integers")
            index, heads, dim = sizes
            if not (0 <= index and 0 < heads <= _MAX_HEADS and 0 < dim <= _MAX_HEAD_DIM):
                raise ValueError(f"layer {index} with {heads} heads of size {dim}")
            prefix = f"layers.{index}."
            if f"{prefix}key.centroids" in plan:
                raise ValueError(f"layer {index} appears twice")
            for side in ("key", "value"):
                fmt = parse_format(entry[f"{side}_format"])
                fmt.num_subvectors(dim)
                centroids = (heads, fmt.num_codes, fmt.codebook_size, fmt.subvector_dim)
                plan[f"{prefix}{side}.centroids"] = ("I8", centroids)
                plan[f"{prefix}{side}.centroid_scale"] = ("F32", (heads,))
                if entry[f"{side}_mean"]:
                    plan[f"{prefix}{side}.mean"] = ("F32", (heads, dim))
                kind = entry[f"{side}_transform"]
                if kind is not None or side == "key":
                    shape = {"matrix": (heads, dim, dim), "smooth_scale": (heads, dim)}[kind]
                    plan[f"{prefix}{side}.{kind}"] = ("F16 or F32" if kind == "matrix" else "F32", shape)
    except (KeyError, TypeError, ValueError) as error:
        raise CodebookError(f"{path}: the list of layers is not valid ({error}); download it again.") from error
    if not plan:
        raise CodebookError(f"{path} lists no layers; a codebook needs at least one.")
    return plan


def _check_header(file, plan: dict[str, tuple[str, tuple[int, ...]]], path: Path) -> None:
    present = set(file.keys())
    for problem, names in (("lacks", set(plan) - present), ("has unexpected", present - set(plan))):
        if names:
            raise CodebookError(
                f"{path} {problem} tensor(s) {sorted(names)[:3]}; it does not match its {CONFIG_NAME}."
            )
    for key, (dtype, shape) in plan.items():
        entry = file.get_slice(key)
        if entry.get_dtype() not in dtype.split(" or ") or tuple(entry.get_shape()) != shape:
            raise CodebookError(
                f"{path}: tensor {key} is {entry.get_dtype()} {tuple(entry.get_shape())}, but its {CONFIG_NAME} "
                f"promises {dtype} {shape}; the files do not belong together."
            )
