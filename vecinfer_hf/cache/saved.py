# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A cache in a file: the codes of a text, its exact tokens, and which model and codebook they belong to.

Owns the file: safetensors, whose header names the format, the codebook's hash, the model and a hash of the tensors.
All of it is checked before anything is used. `VecInferCache.save` and `load` come here, and pages of codes likewise.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers import PreTrainedModel

from ..codebook.codebook import Codebook
from ..codebook.tensors import file_content
from ..config import replace_file
from ..errors import SavedCacheError, UnsupportedCallError
from ..ops.types import CacheBuffers
from .layer import VecInferLayer
from .storage import ordinary_tensors


Cached = TypeVar("Cached", bound="SavedCaches")
FORMAT, TILE_FORMAT = 1, 1
"""Versions of the file and of the order of bits in a tile (quantization/packing.py)."""
_HEADER = "vecinfer"
_FIELDS = ("codes", "sink_keys", "sink_values", "ring_keys", "ring_values", "lengths", "quantized_lengths")


def codebook_hash(codebook: Codebook) -> str:
    """Return the SHA-256 of a codebook's tensors, as its config.json has it."""
    return hashlib.sha256(file_content(codebook.layers, codebook.identity.layers)).hexdigest()


def write_saved(path: Path, kind: str, codebook: Codebook, about: dict[str, Any], tensors: dict[str, torch.Tensor]):
    """Write a file so that its old or its new content is there whenever the process stops.

    Args:
        path: the file.
        kind: "cache" or "pages".
        codebook: the codebook.
        about: what is to be known of the tensors, JSON values.
        tensors: on any device.

    Raises:
        SavedCacheError: if it cannot be written.
    """
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    header = {
        "format": FORMAT,
        "tiles": TILE_FORMAT,
        "kind": kind,
        "codebook": codebook_hash(codebook),
        "model": [codebook.identity.name, codebook.identity.model_type],
        "tensors": _digest(tensors),
        **about,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, save(tensors, {_HEADER: json.dumps(header)}))
    except OSError as error:
        raise SavedCacheError(f"{path} cannot be written ({error.strerror}); give another file.") from error


def read_saved(path: Path, kind: str, codebook: Codebook) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the header and the tensors of a file, on the CPU.

    Raises:
        SavedCacheError: if it is no such file, damaged, or made with another codebook or model.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_HEADER, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise SavedCacheError(f"There is no file {path}; save a cache there first.") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise SavedCacheError(
            f"{path} is no complete saved cache ({' '.join(str(error).split())}); save it again."
        ) from error
    if not isinstance(header, dict) or header.get("kind") != kind:
        found = header.get("kind") if isinstance(header, dict) else None
        raise SavedCacheError(f"{path} holds {found or 'no saved cache'}, not a saved {kind}; give another file.")
    if (header.get("format"), header.get("tiles")) != (FORMAT, TILE_FORMAT):
        raise SavedCacheError(
            f"{path} has format {header.get('format')} and tiles {header.get('tiles')}, but this version reads "
            f"{FORMAT} and {TILE_FORMAT}; save it again."
        )
    if header.get("codebook") != codebook_hash(codebook):
        raise SavedCacheError(
            f"{path} was made with another codebook than {codebook!r}, for {header.get('model')}; load it with the "
            "codebook and the model it was made with, or compute it again."
        )
    if header.get("tensors") != _digest(tensors):
        raise SavedCacheError(f"{path} is damaged: its tensors are not those that were saved; save it again.")
    return header, tensors


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class SavedCaches:
    """`save` and `load` of a cache."""

    def save(self, path: str | Path, input_ids: torch.Tensor | None = None) -> None:
        """Write what the cache holds to a safetensors file, with the hash of its codebook.

        Args:
            path: the file; an old one is replaced at once.
            input_ids: int64 `[B, columns]`, the text, to be kept beside it.

        Raises:
            UnsupportedCallError: for a static or empty cache, padded rows, or layers without full attention.
            SavedCacheError: if the file cannot be written.
        """
        save_cache(self, path, input_ids)

    @classmethod
    def load(cls, path: str | Path, model: PreTrainedModel, codebook: Codebook | str | None = None) -> SavedCaches:
        """Return a cache that `save` wrote, on the device of `model`.

        Args:
            path: the file.
            model: the model that computed it, or the same one in another process.
            codebook: its codebook; default that of `enable`, else "auto".

        Raises:
            SavedCacheError: for a damaged file, or another codebook, model or dtype.
        """
        return load_with_text(cls, path, model, codebook)[0]


def load_with_text(
    cache_class: type[Cached], path: str | Path, model: PreTrainedModel, codebook: Codebook | str | None
) -> tuple[Cached, torch.Tensor | None]:
    """Return a saved cache and the text beside it, int64 `[B, columns]`, if there is one; see `SavedCaches.load`."""
    # `enable` leaves what it found as this attribute.
    state = vars(model).get("_vecinfer")
    found = codebook if codebook is not None or state is None else state.codebook
    found = cache_class(model, found).codebook
    header, tensors = read_saved(Path(path), "cache", found)
    if header["dtype"] != str(model.dtype).removeprefix("torch."):
        raise SavedCacheError(f"{path} has {header['dtype']} tokens, but the model is in {model.dtype}; load it so.")
    options = {name: header[name] for name in ("residual_length", "sink_length", "sink_choice")}
    cache = cache_class(model, found, **options)
    fill_cache(cache, header, tensors, model.device)
    text = tensors.get("input_ids")
    return cache, None if text is None else text.to(model.device)


def save_cache(cache: SavedCaches, path: str | Path, input_ids: torch.Tensor | None = None) -> None:
    """Write a cache that grows and holds rows without padding; see `VecInferCache.save`."""
    layers = cache.layers
    if not all(isinstance(layer, VecInferLayer) and not layer.is_compileable for layer in layers):
        raise UnsupportedCallError(
            "Only a growing cache of a model whose layers all have full attention can be saved; save the text."
        )
    if not all(layer.is_initialized for layer in layers):
        raise UnsupportedCallError("The cache is empty; give it a text before it is saved.")
    torn = any(layer.storage.torn is not None for layer in layers) or not cache.forward_pass.is_between_passes
    if torn or cache.forward_pass.padding.columns is not None:
        raise UnsupportedCallError("A cache with padded rows, or after a failed call, cannot be saved; make it anew.")
    first = layers[0]
    about = {
        "residual_length": first.residual_length,
        "sink_length": first.sink_length,
        "sink_choice": first.sink_choice,
        "columns": int(first.cumulative_length),
        "dtype": str(first.dtype).removeprefix("torch."),
        "rows": [],
    }
    tensors = {} if input_ids is None else {"input_ids": input_ids}
    for index, layer in enumerate(layers):
        held = layer.storage
        about["rows"].append({"tokens": held.tokens, "codes": held.quantized, "ordered": layer.sinks.ordered})
        for name in _FIELDS:
            tensor = getattr(layer.buffers, name)
            if name == "codes":
                tensor = tensor[:, :, : -(-max(layer.storage.quantized) // 32)]
            tensors[f"{index}.{name}"] = tensor
        if layer.sinks.order is not None:
            tensors[f"{index}.order"] = layer.sinks.order
    write_saved(Path(path), "cache", cache.codebook, about, tensors)


def fill_cache(
    cache: SavedCaches, header: dict[str, Any], tensors: dict[str, torch.Tensor], device: torch.device
) -> None:
    """Put what `read_saved` returned into the empty layers of a cache, on `device`."""
    dtype = getattr(torch, header["dtype"])
    for index, layer in enumerate(cache.layers):
        heads, key_dim, value_dim = cache.codebook.head_shape(index)
        rows = header["rows"][index]
        batch = len(rows["tokens"])
        with ordinary_tensors():
            empty = (torch.zeros(batch, heads, 0, dim, dtype=dtype, device=device) for dim in (key_dim, value_dim))
            layer.lazy_initialization(*empty)
            held = (tensors[f"{index}.{name}"].to(device, copy=True) for name in _FIELDS)
            layer.storage.buffers = CacheBuffers(*held)
            layer.storage.tokens, layer.storage.quantized = list(rows["tokens"]), list(rows["codes"])
            order = tensors.get(f"{index}.order")
            layer.sinks.order = None if order is None else order.to(device, copy=True)
            layer.sinks.ordered = list(rows["ordered"])
        layer._set_columns(header["columns"])
