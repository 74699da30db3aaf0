# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Codebook: the tensors that quantize one model's cache, and where they came from.

Owns the object and where it is looked for. files.py owns the file format, hub/ moves the files.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.utils import logging

from ..calibration_config import CalibrationConfig
from ..errors import CodebookError
from ..model_info import check_identity, model_identity
from ..ops.types import LayerCodebook
from ..quantization.formats import CodeFormat, implied_format
from .files import (
    CONFIG_NAME,
    FORMAT_VERSION,
    TENSORS_NAME,
    layer_tensors,
    read_config,
    read_description,
    read_layers,
)


logger = logging.get_logger(__name__)


class Codebook:
    """All layers' codebooks of one model.

    Args:
        config: the CalibrationConfig it was made with.
        identity: the model it belongs to, as `model_identity(model.config)` returns it.
        layers: layer index -> LayerCodebook, for the layers with full attention.
        provenance: how it was made: model revision, text sources and hashes, tokens, date, errors per layer.
        metrics: measured quality, free form, shown in the card.
    """

    def __init__(
        self,
        config: CalibrationConfig,
        identity: dict[str, Any],
        layers: dict[int, LayerCodebook],
        provenance: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
    ):
        self.config = config
        self.identity = identity
        self.layers = dict(sorted(layers.items()))
        self.provenance = provenance or {}
        self.metrics = metrics or {}
        self.source: dict[str, str] | None = None
        """Name (and revision) under which it was found, or None for one made in this process."""
        self._on_device: dict[tuple[int, torch.device], LayerCodebook] = {}

    def __deepcopy__(self, memo):
        # Shared by all layers of all caches and never changed, so copies of a cache share it too.
        return self

    def __repr__(self):
        return f"Codebook({self.identity.get('name')}, {self.bits_per_element:g} bits, {len(self.layers)} layers)"

    def layer(self, index: int, device: torch.device) -> LayerCodebook:
        """Return layer `index` on `device`; it is moved there once and kept."""
        key = (index, torch.device(device))
        if key not in self._on_device:
            self._on_device[key] = self.layers[index].to(device)
        return self._on_device[key]

    def formats(self, index: int) -> tuple[CodeFormat, CodeFormat]:
        """Return the key and value format of layer `index`."""
        layer = self.layers[index]
        return implied_format(layer.key_centroids.shape), implied_format(layer.value_centroids.shape)

    def head_shape(self, index: int) -> tuple[int, int]:
        """Return the key/value heads and the head size of layer `index`."""
        transform = self.layers[index].key_transform
        return transform.shape[0], transform.shape[-1], transform.shape[-1]

    @property
    def bits_per_element(self) -> float:
        """Mean bits per key or value element of coded tokens, over all quantized layers."""
        pairs = [self.formats(index) for index in self.layers]
        return sum(fmt.bits_per_element for pair in pairs for fmt in pair) / (2 * len(pairs))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(layer.nbytes for layer in self.layers.values())

    def check_model(self, config) -> None:
        """Raise `CodebookError` unless this codebook belongs to a model with this `PreTrainedConfig`."""
        model = model_identity(config)
        problem = check_identity(self.identity, model)
        if problem:
            raise CodebookError(
                f"{self!r} does not fit this model: {problem}. Calibrate one for it with `vecinfer calibrate`."
            )
        mine, theirs = str(self.identity.get("name") or ""), model["name"]
        # The name of a local directory says nothing about the weights in it.
        known = mine and theirs and not Path(theirs).exists() and not Path(mine).exists()
        if known and mine.split("/")[-1] != theirs.split("/")[-1]:
            logger.warning_once(
                f"vecinfer: the codebook was made for {mine!r} and is used with {theirs!r}; the shapes agree, but if "
                "these are different weights the quality will be worse than measured."
            )

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write `config.json`, `codebook.safetensors` and a `README.md` card into `save_directory`.

        The files are written beside it first and moved into place, so a failure leaves what was there before.

        Raises:
            CodebookError: if `save_directory` is a file.
        """
        from ..hub.card import codebook_card

        target = Path(save_directory)
        if target.is_file():
            raise CodebookError(f"Cannot save a codebook to {target}: it is a file; give a directory.")
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".saving-") as temporary:
            work = Path(temporary)
            tensors = {}
            for index, layer in self.layers.items():
                tensors.update(layer_tensors(index, layer))
            # One entry of metadata: safetensors writes several in any order, and equal codebooks must be equal files.
            save_file(tensors, work / TENSORS_NAME, metadata={"format": "pt"})
            description = {
                "format_version": FORMAT_VERSION,
                "library_name": "vecinfer",
                "vecinfer_config": self.config.to_dict(),
                "model": self.identity,
                "layers": [self._describe(index) for index in self.layers],
                "provenance": self.provenance,
                "metrics": self.metrics,
            }
            (work / CONFIG_NAME).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            (work / "README.md").write_text(codebook_card(self), encoding="utf-8")
            for name in (TENSORS_NAME, "README.md", CONFIG_NAME):
                shutil.move(work / name, target / name)

    def push_to_hub(self, repo_id: str, **kwargs):
        """Upload this codebook to a Hub repository; see `vecinfer_hf.hub.push_codebook` for the arguments.

        Returns:
            The commit or pull request, a `huggingface_hub.CommitInfo`.
        """
        from ..hub import push_codebook

        return push_codebook(self, repo_id, **kwargs)

    @classmethod
    def from_pretrained(cls, name: str | Path, **kwargs) -> Codebook:
        """Load a codebook from a directory, from those shipped with the package, or from the Hub, and check it.

        Args:
            name: directory, shipped name ("SmolLM2-135M-Instruct/2bit") or Hub repository id, looked up in that order.
            kwargs: for Hub repositories: revision, subfolder, token, cache_dir, local_files_only, force_download.

        Raises:
            CodebookError: if it is not found or one of its files is not valid.
        """
        directory = Path(name).expanduser()
        if directory.is_dir():
            subfolder = kwargs.get("subfolder")
            return cls._load(directory / subfolder if subfolder else directory, {"codebook": str(name)})
        shipped = shipped_codebooks() / str(name)
        if not directory.is_absolute() and ".." not in directory.parts and (shipped / CONFIG_NAME).is_file():
            return cls._load(shipped, {"codebook": str(name)})
        if directory.is_file():
            raise CodebookError(f"{name} is a file; a codebook is a directory with {CONFIG_NAME} and {TENSORS_NAME}.")
        own = ", ".join(shipped_names())
        elsewhere = f"There is no directory {name} here, and the package's own codebooks are {own}."
        if len(directory.parts) > 2 or directory.is_absolute() or str(name).startswith("."):
            raise CodebookError(f"{elsewhere} It cannot be a Hub repository either: those are called owner/name.")
        from ..errors import CodebookHubError
        from ..hub import download_codebook

        try:
            downloaded, commit = download_codebook(str(name), **kwargs)
        except CodebookHubError as error:
            raise CodebookHubError(f"{error} ({elsewhere})") from error
        source = {"codebook": str(name), "revision": commit}
        if kwargs.get("subfolder"):
            source["subfolder"] = kwargs["subfolder"]
        return cls._load(downloaded, source)

    @classmethod
    def _load(cls, directory: Path, source: dict[str, str]) -> Codebook:
        description = read_description(directory)
        codebook = cls(
            read_config(description, directory),
            description["model"],
            read_layers(directory, description),
            description.get("provenance"),
            description.get("metrics"),
        )
        codebook.source = source
        return codebook

    def _describe(self, index: int) -> dict[str, Any]:
        layer = self.layers[index]
        key_format, value_format = self.formats(index)
        heads, head_dim, _ = self.head_shape(index)
        return {
            "index": index,
            "num_key_value_heads": heads,
            "head_dim": head_dim,
            "key_format": key_format.name,
            "value_format": value_format.name,
            "key_transform": "matrix" if layer.key_transform.dim() == 3 else "smooth_scale",
            "value_transform": (
                None
                if layer.value_transform is None
                else "matrix"
                if layer.value_transform.dim() == 3
                else "smooth_scale"
            ),
            "key_mean": layer.key_mean is not None,
            "value_mean": layer.value_mean is not None,
        }


def shipped_codebooks() -> Path:
    """Return the directory of the codebooks that come with the package."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "quant_configs"
    return installed if installed.is_dir() else package.parent / "quant_configs"


def shipped_names() -> list[str]:
    """Return the names of the codebooks that come with the package, sorted."""
    root = shipped_codebooks()
    return sorted(path.parent.relative_to(root).as_posix() for path in root.glob(f"*/*/{CONFIG_NAME}"))
