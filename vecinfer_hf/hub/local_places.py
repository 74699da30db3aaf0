# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The codebooks that are known without asking the Hub: saved with the model, named by its config, shipped, made here.

Owns what is found in each of these places. search.py owns their order and the search on the Hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..codebook.files import load_forms
from ..codebook.fingerprint import weights_fingerprint
from ..codebook.kept import kept_codebooks
from ..codebook.locate import SAVED_FOLDER, saved_with_model
from ..codebook.shipped import shipped_codebooks, shipped_names
from ..errors import CodebookError
from ..model_info import check_identity, model_identity
from ..quantization.formats import mean_bits


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class FoundCodebook:
    """A codebook that could serve a model.

    Args:
        name: what to pass as `codebook`: a Hub repository, a shipped name or a directory.
        source: "saved with the model", "model config", "shipped", "made here" or "hub".
        trusted: whether `codebook="auto"` may take it without being told.
        why: one sentence for the user.
        subfolder: directory inside the repository, or None.
        revision: revision that the model's config asks for, or None.
        bits_per_element: mean bits of keys and values together; None where only the codebook itself knows.
        key_bits, value_bits: likewise of keys and of values alone.
    """

    name: str
    source: str
    trusted: bool
    why: str
    subfolder: str | None = None
    revision: str | None = None
    bits_per_element: float | None = None
    key_bits: float | None = None
    value_bits: float | None = None

    def __str__(self) -> str:
        return self.name + (f" (subfolder {self.subfolder})" if self.subfolder else "")


def is_hub_id(model_id: str) -> bool:
    """Return whether a name can only be a repository's."""
    return model_id.count("/") == 1 and not model_id.startswith((".", "/", "~")) and not Path(model_id).is_dir()


def owner(name: str) -> str:
    """Return the owner of a repository, in lower case."""
    return name.split("/", 1)[0].lower()


def same_name(one: str, other: str) -> bool:
    """Return whether two names mean one model, wherever it is stored: the last part counts."""
    first, second = (name.rstrip("/").rsplit("/", 1)[-1].lower() for name in (one, other))
    return bool(first) and first == second


def saved_with(
    model_id: str, config: PreTrainedConfig | None, cache_config: Any, search: bool
) -> Iterator[FoundCodebook]:
    """Yield the codebook beside the weights; a repository is asked only if its model was saved while enabled.

    Args:
        model_id: directory or repository of the model.
        config: its config.
        cache_config: of its generation config.
        search: whether the Hub may be asked.
    """
    directory, why = saved_with_model(model_id), "it was saved with the model"
    if directory is not None:
        yield FoundCodebook(str(directory), "saved with the model", True, why)
    elif search and is_hub_id(model_id):
        options = list(_vecinfer_options(config, cache_config))
        if options and all(each.get("codebook") in (None, "", "auto") for each in options):
            revision = getattr(config, "_commit_hash", None)
            yield FoundCodebook(model_id, "saved with the model", True, why, SAVED_FOLDER, revision)


def _vecinfer_options(config: PreTrainedConfig | None, cache_config: Any) -> Iterator[dict[str, Any]]:
    """Yield what the generation config and the config of a model say of a cache of codes."""
    given: tuple[Any, ...] = cache_config, getattr(config, "quantization_config", None)
    for options in given:
        options = options.to_dict() if hasattr(options, "to_dict") else options
        if isinstance(options, dict) and "vecinfer" in (options.get("backend"), options.get("quant_method")):
            yield options


def named_by_config(
    model_id: str, config: PreTrainedConfig | None, cache_config: Any, owners: dict[str, str]
) -> Iterator[FoundCodebook]:
    """Yield the codebook that the model's generation config or config names."""
    for options in _vecinfer_options(config, cache_config):
        name = options.get("codebook")
        if isinstance(name, str) and name not in ("", "auto", "online"):
            # The files of a local model are the user's own; a model from the Hub may name its own owner's codebooks.
            trusted = not is_hub_id(model_id) or owner(name) in owners or Path(name).is_dir()
            place = {key: options.get(key) for key in ("subfolder", "revision")}
            yield FoundCodebook(name, "model config", trusted, "the model's config names it", **place)
            return


def shipped(model_id: str, config: PreTrainedConfig | None) -> Iterator[FoundCodebook]:
    """Yield the package's codebooks for a model of this name."""
    for name in shipped_names():
        try:
            description, forms = load_forms(shipped_codebooks() / name)
        except CodebookError as error:
            logger.warning(str(error))
            continue
        identity = description.identity
        other_shape = config is not None and check_identity(identity, model_identity(config))
        if other_shape or not same_name(identity.name, model_id):
            continue
        bits = mean_bits((form.key.code_format, form.value.code_format) for form in forms.values())
        yield FoundCodebook(name, "shipped", True, "it comes with the package for this model", **bits._asdict())


def made_here(model: PreTrainedModel) -> Iterator[FoundCodebook]:
    """Yield what was made on this machine for the model's weights."""
    fingerprint = weights_fingerprint(model)
    for kept in kept_codebooks():
        if kept.fingerprint != fingerprint:
            continue
        try:
            _, forms = load_forms(kept.directory)
        except CodebookError as error:
            logger.warning(f"vecinfer: a kept codebook cannot be used: {error}")
            continue
        bits = mean_bits((form.key.code_format, form.value.code_format) for form in forms.values())
        why = "it was made on this machine for these weights"
        yield FoundCodebook(str(kept.directory), "made here", True, why, **bits._asdict())
