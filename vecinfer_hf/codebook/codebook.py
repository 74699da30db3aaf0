# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Codebook: the tensors that quantize one model's cache, and where they came from.

Owns the object and where it is looked for. files.py and saving.py own its files, hub/ moves them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedConfig
from transformers.utils import logging

from ..calibration_config import CalibrationConfig
from ..distributed.heads import HeadShard
from ..errors import CodebookError, ConfigError
from ..model_info import HeadShape, ModelIdentity, check_identity, model_identity
from ..ops.types import LayerCodebook
from ..quantization.formats import CodeFormat, MeanBits, implied_format, mean_bits
from . import sizes
from .description import Description
from .files import load_files
from .locate import locate
from .saving import save_files
from .sharding import HeadSharding
from .tensors import file_content


logger = logging.get_logger(__name__)
_LARGEST_ERROR = 1e30


class LayerError(NamedTuple):
    """The squared error of a layer's keys and values on the calibration text, relative to their squared size."""

    layer: int
    key: float
    value: float


class Codebook(HeadSharding):
    """All layers' codebooks of one model.

    Args:
        config: the CalibrationConfig it was made with.
        identity: the model it belongs to, as `model_identity(model.config)` returns it.
        layers: layer index -> LayerCodebook, for the layers with full attention.
        provenance: how it was made: text sources and hashes, tokens, versions, date, errors per layer; JSON values.
        metrics: measured quality, free form, shown in the card; JSON values.
        weights_fingerprint: of the model's weights, or None.

    Raises:
        CodebookError: if `layers` are not those of `identity`.
    """

    def __init__(
        self,
        config: CalibrationConfig,
        identity: ModelIdentity,
        layers: dict[int, LayerCodebook],
        provenance: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        weights_fingerprint: str | None = None,
    ):
        self.config = config
        self.identity = identity
        self.layers = dict(sorted(layers.items()))
        self.provenance = provenance or {}
        self.metrics = metrics or {}
        self.weights_fingerprint = weights_fingerprint
        self.source: dict[str, str] | None = None
        """Name (and revision, subfolder) under which it was found, or None for one made in this process."""
        self._on_device: dict[tuple[int, torch.device], LayerCodebook] = {}
        self._shards: dict[HeadShard, Codebook] = {}
        self._check_layers()

    def __deepcopy__(self, memo):
        # Shared by all layers of all caches and never changed, so copies of a cache share it too.
        return self

    def __repr__(self):
        name = self.identity.name or self.identity.model_type
        return f"Codebook({name}, {self.bits_per_element:g} bits, {len(self.layers)} layers)"

    def layer(self, index: int, device: torch.device) -> LayerCodebook:
        """Return layer `index` on `device`; it is moved there once and kept until `free`."""
        key = (index, torch.device(device))
        if key not in self._on_device:
            self._on_device[key] = self.layers[index].to(device)
        return self._on_device[key]

    def free(self, device: torch.device | str | None = None) -> None:
        """Drop the copies that `layer` keeps on a device, on all devices without one; caches in use keep theirs."""
        given = None if device is None else torch.device(device)
        for key in [key for key in self._on_device if given in (None, key[1])]:
            del self._on_device[key]
        for shard in self._shards.values():
            shard.free(device)

    def formats(self, index: int) -> tuple[CodeFormat, CodeFormat]:
        """Return the key and value format of layer `index`."""
        layer = self.layers[index]
        return implied_format(layer.key_centroids.shape), implied_format(layer.value_centroids.shape)

    def head_shape(self, index: int) -> HeadShape:
        """Return the key/value heads of layer `index` and their sizes."""
        return self.identity.layers[index]

    @property
    def mean_bits(self) -> MeanBits:
        """Mean bits per key element, per value element and of both, of coded tokens, over all quantized layers."""
        return mean_bits(self.formats(index) for index in self.layers)

    @property
    def bits_per_element(self) -> float:
        """Mean bits per key or value element of coded tokens, over all quantized layers."""
        return self.mean_bits.bits_per_element

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, on one device."""
        return sum(layer.nbytes for layer in self.layers.values())

    @property
    def bytes_per_token(self) -> float:
        """Bytes that one coded token of one sequence takes in all quantized layers, padding of the tiles included."""
        return sum(sizes.bytes_per_token(self.head_shape(index), self.formats(index)) for index in self.layers)

    @property
    def errors(self) -> list[LayerError]:
        """The errors per layer in the provenance, by layer; entries of another form are left out."""
        found = self.provenance.get("errors")
        known = {}
        for entry in found if isinstance(found, list) else ():
            values: list[Any] = [entry.get(name) for name in LayerError._fields] if isinstance(entry, dict) else []
            if values and type(values[0]) is int and all(type(value) in (int, float) for value in values[1:]):
                if all(0 <= value < _LARGEST_ERROR for value in values[1:]):
                    known[values[0]] = LayerError(values[0], float(values[1]), float(values[2]))
        return [known[index] for index in self.layers if index in known]

    def check_model(self, config: PreTrainedConfig) -> None:
        """Raise `CodebookError` unless this codebook belongs to a model with this config."""
        model = model_identity(config)
        problem = check_identity(self.identity, model)
        if problem:
            raise CodebookError(
                f"{self!r} does not fit this model: {problem}. Calibrate one for it with `vecinfer calibrate`."
            )
        mine, theirs = self.identity.name, model.name
        # The name of a local directory says nothing about the weights in it.
        known = mine and theirs and not Path(theirs).exists() and not Path(mine).exists()
        if known and mine.split("/")[-1] != theirs.split("/")[-1]:
            logger.warning_once(
                f"vecinfer: the codebook was made for {mine!r} and is used with {theirs!r}; the shapes agree, but if "
                "these are different weights the quality will be worse than measured."
            )

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write `config.json`, `codebook.safetensors` and a `README.md` card into `save_directory`.

        The old or the new codebook loads whenever the process stops (saving.py). Other files in the directory stay,
        and so does a README.md of your own.

        Raises:
            CodebookError: if `save_directory` is a file or has a config.json that is no codebook's, or if this
                codebook could not be loaded again; nothing has changed then.
        """
        from ..hub.card import codebook_card

        self._check_layers()
        self._check_config()
        tensors = file_content(self.layers, self.identity.layers)
        description = Description(
            self.config,
            self.identity,
            hashlib.sha256(tensors).hexdigest(),
            self.weights_fingerprint,
            self.provenance,
            self.metrics,
        )
        config = description.to_json()
        save_files(Path(save_directory).expanduser(), config, tensors, codebook_card(self).encode("utf-8"))

    def push_to_hub(self, repo_id: str, **kwargs):
        """Upload this codebook to a Hub repository; see `vecinfer_hf.hub.push_codebook` for the arguments.

        Returns:
            The commit or pull request, a `huggingface_hub.CommitInfo`.
        """
        from ..hub.push import push_codebook

        return push_codebook(self, repo_id, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Codebook:
        """Load a codebook from a directory, from those shipped with the package, or from the Hub, and check it.

        Args:
            name: directory, shipped name ("SmolLM2-135M-Instruct/2bit") or Hub repository id, looked up in that order.
            revision: branch, tag or commit of a repository.
            subfolder: directory inside it.
            token: Hub token; None for the one of `hf auth login`.
            cache_dir: the Hub cache; None for the usual one.
            local_files_only: use the Hub cache only.
            force_download: download again what is cached.

        Raises:
            CodebookError: if it is not found or one of its files is not valid.
            CodebookHubError: if it cannot be downloaded.
        """
        directory, commit = locate(
            name,
            revision=revision,
            subfolder=subfolder,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        description, layers = load_files(directory)
        codebook = cls(
            description.config,
            description.identity,
            layers,
            description.provenance,
            description.metrics,
            description.weights_fingerprint,
        )
        if description.sha256 is not None:  # format 1 is read as it is
            codebook._check_config(f"{directory}: ")
        source = {"codebook": str(name), "revision": commit, "subfolder": subfolder}
        codebook.source = {key: str(value) for key, value in source.items() if value}
        return codebook

    def _check_layers(self) -> None:
        """Raise CodebookError unless the layers are those of the model's identity."""
        if set(self.layers) != set(self.identity.layers):
            raise CodebookError(
                f"The codebook has the layers {sorted(self.layers)}, but the identity of its model has "
                f"{sorted(self.identity.layers)}; give every quantized layer one codebook."
            )
        for index, layer in self.layers.items():
            shape = self.head_shape(index)
            for side, dim, *tensors in (
                ("key", shape.key_head_dim, layer.key_transform, layer.key_mean),
                ("value", shape.value_head_dim, layer.value_transform, layer.value_mean),
            ):
                found = {(tensor.shape[0], tensor.shape[-1]) for tensor in tensors if tensor is not None}
                if found - {(shape.num_key_value_heads, dim)}:
                    raise CodebookError(
                        f"Layer {index} has tensors for {side} heads {sorted(found)} (number, size), but its model "
                        f"has {shape.num_key_value_heads} of size {dim}; calibrate again."
                    )

    def _check_config(self, where: str = "") -> None:
        """Raise CodebookError if the bits that the config asks for are not those of the layers."""
        if self.config.allocate is not None:
            return
        try:
            asked = self.config.formats(len(self.layers))
        except ConfigError as error:
            raise CodebookError(
                f"{where}The CalibrationConfig of this codebook is not its own: {error} Calibrate again."
            ) from error
        found = [self.formats(index) for index in self.layers]
        if asked != found:
            layer, *pairs = next(each for each in zip(self.layers, asked, found, strict=True) if each[1] != each[2])
            words = [" and ".join(fmt.name for fmt in pair) for pair in pairs]
            raise CodebookError(
                f"{where}The CalibrationConfig of this codebook asks for {words[0]} in layer {layer}, which holds "
                f"{words[1]} (keys and values); give the config that it was made with, or calibrate again."
            )
