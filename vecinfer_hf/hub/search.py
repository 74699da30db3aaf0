# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Finding a codebook for a model: saved with it, named by its config, shipped, made here, then on the Hub.

Owns the order, and the rule that nothing comes from an owner the user neither named nor allowed. download.py
fetches, codebook/ reads, integration/resolve.py decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..errors import ConfigError, NoCodebookError, transport_errors
from ..quantization.formats import parse_format
from .download import hub_api
from .local_places import FoundCodebook, is_hub_id, made_here, named_by_config, owner, saved_with, shipped
from .metadata import TAGS


logger = logging.get_logger(__name__)

TRUSTED_OWNERS_VARIABLE = "VECINFER_TRUSTED_OWNERS"
"""Environment variable: Hub names, separated by commas, from which `codebook="auto"` may download."""

_MOST_RESULTS = 50
_MOST_BITS = 16
_PREFERRED_BITS = 2.0
"""Bits per element that `codebook="auto"` comes closest to."""


def find_codebooks(
    model_or_id: PreTrainedModel | PreTrainedConfig | str,
    bits: float | None = None,
    *,
    key_bits: float | None = None,
    value_bits: float | None = None,
    trusted_owners: Iterable[str] | None = (),
    search: bool = True,
    token: str | bool | None = None,
) -> list[FoundCodebook]:
    """Return the codebooks known for a model, those to prefer first. Downloads none of them.

    Looked at in this order: what was saved with the model, what its config names, the codebooks shipped with the
    package, for a loaded model those made on this machine for its weights, and the Hub's repositories tagged
    "vecinfer" with this base model. Owners are trusted if they are in `trusted_owners` or in the environment variable
    VECINFER_TRUSTED_OWNERS, or if the model itself is theirs.

    Args:
        model_or_id: a model, its config, a Hub id or a directory.
        bits: mean bits per element wanted; None for any. Key and value bits can be asked for apart.
        key_bits: mean bits per key element.
        value_bits: mean bits per value element.
        trusted_owners: Hub users or organizations to trust.
        search: whether to ask the Hub at all.
        token: Hub token; None for the one of `hf auth login`.

    Raises:
        ConfigError: for bits that no codebook can have.
    """
    wanted = (("bits_per_element", bits), ("key_bits", key_bits), ("value_bits", value_bits))
    for name, value in wanted:
        if value is not None and not (isinstance(value, (int, float)) and 0 < value <= _MOST_BITS):
            raise ConfigError(f"{name} is {value!r}; it must be a number of bits above 0 and at most {_MOST_BITS}.")
    found = [item for items in _places(model_or_id, trusted_owners, search, token) for item in items]
    return [item for item in found if all(_has_bits(getattr(item, name), value) for name, value in wanted)]


def candidates(
    model_or_config: PreTrainedModel | PreTrainedConfig,
    *,
    key_bits: float | str | None = None,
    value_bits: float | str | None = None,
    trusted_owners: Iterable[str] | None = (),
    token: str | bool | None = None,
) -> Iterator[FoundCodebook]:
    """Yield the codebooks that `codebook="auto"` may take, best first; those on the Hub are looked for last.

    Args:
        model_or_config: the model they are for, or its config.
        key_bits: bits per key element, or a format name; codebooks known to have others are left out. None: those
            come first that are closest to 2 bits per element.
        value_bits: likewise of values.
        trusted_owners: Hub users or organizations from which it may download.
        token: Hub token.

    Raises:
        NoCodebookError: after the last one, for a caller that took none; it lists what the user could allow.
    """
    wanted = {"key_bits": key_bits, "value_bits": value_bits}
    bits = {name: None if value is None else parse_format(value).bits_per_element for name, value in wanted.items()}

    def distance(item: FoundCodebook) -> float:
        return abs((item.bits_per_element or _PREFERRED_BITS) - _PREFERRED_BITS)

    untrusted = []
    for found in _places(model_or_config, trusted_owners, True, token):
        fitting = [
            item
            for item in found
            if all(
                getattr(item, name) is None or _has_bits(getattr(item, name), value) for name, value in bits.items()
            )
        ]
        untrusted += [item for item in fitting if not item.trusted]
        yield from sorted((item for item in fitting if item.trusted), key=distance)
    raise NoCodebookError(_nothing_to_take(model_or_config, untrusted), [str(item) for item in untrusted])


def _places(given: Any, trusted_owners: Iterable[str] | None, search: bool, token) -> Iterator[list[FoundCodebook]]:
    """What each place has, one place after the other."""
    model_id, config, named = _model(given, token)
    owners = _trusted(model_id, trusted_owners)
    yield list(saved_with(model_id, config, named, search))
    yield list(named_by_config(model_id, config, named, owners))
    yield list(shipped(model_id, config))
    if isinstance(given, PreTrainedModel):
        yield list(made_here(given))
    if search and is_hub_id(model_id):
        yield sorted(_on_hub(model_id, owners, token), key=lambda item: not item.trusted)


def _model(given: PreTrainedModel | PreTrainedConfig | str, token) -> tuple[str, PreTrainedConfig | None, Any]:
    """The model's id or directory, its config, and the generation config's cache_config."""
    if isinstance(given, PreTrainedModel):
        generation = getattr(given, "generation_config", None)
        return given.config._name_or_path or "", given.config, getattr(generation, "cache_config", None)
    if isinstance(given, PreTrainedConfig):
        return given._name_or_path or "", given, None
    try:
        return given, AutoConfig.from_pretrained(given, token=token), None
    except (OSError, ValueError) as error:
        logger.warning(f"The config of {given} cannot be read ({error}); only its name is used to find codebooks.")
        return given, None, None


def _trusted(model_id: str, owners: Iterable[str] | None) -> dict[str, str]:
    """Owners in lower case -> as they were written."""
    named = [*(owners or ()), *os.environ.get(TRUSTED_OWNERS_VARIABLE, "").split(",")]
    named += [model_id.split("/")[0]] if is_hub_id(model_id) else []
    return {owner.strip().lower(): owner.strip() for owner in named if owner.strip()}


def _on_hub(model_id: str, owners: dict[str, str], token) -> Iterator[FoundCodebook]:
    api, seen = hub_api(token), set()
    filters = [TAGS[0], f"base_model:{model_id}"]
    try:
        for author in (*sorted(owners.values()), None):
            for info in api.list_models(filter=filters, author=author, cardData=True, limit=_MOST_RESULTS):
                if info.id in seen:
                    continue
                seen.add(info.id)
                trusted = owner(info.id) in owners
                why = f"its card says it is for {model_id}, and you " + ("trust" if trusted else "do not yet trust")
                for subfolder, bits in _listed(info.card_data):
                    yield FoundCodebook(info.id, "hub", trusted, f"{why} {owner(info.id)}", subfolder, **bits)
    except (HfHubHTTPError, *transport_errors()) as error:  # type: ignore[misc]  # mypy reads no starred tuple here
        logger.warning(f"The Hub could not be searched for codebooks ({error}).")


def _listed(card_data: Any) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Subfolder and bits of each codebook that a card lists. Anybody writes cards, so nothing in them is relied on."""
    listed = getattr(card_data, "vecinfer", None)
    for entry in listed if isinstance(listed, list) else [{}]:
        if isinstance(entry, dict):
            subfolder = entry.get("subfolder")
            bits = {key: entry.get(key) for key in ("bits_per_element", "key_bits", "value_bits")}
            bits = {key: value if isinstance(value, (int, float)) else None for key, value in bits.items()}
            yield (subfolder if subfolder and isinstance(subfolder, str) else None), bits


def _has_bits(found: float | None, wanted: float | None) -> bool:
    return wanted is None or (found is not None and abs(found - wanted) < 0.05)


def _nothing_to_take(model: Any, untrusted: list[FoundCodebook]) -> str:
    name = model if isinstance(model, str) else getattr(model, "config", model)._name_or_path
    text = (
        f'codebook="auto" found none for {name or "this model"}: none in its config, none shipped, none of an owner '
        "you trust."
    )
    if untrusted:
        offers = ", ".join(sorted({f"{item}" for item in untrusted}))
        owners = sorted({owner(item.name) for item in untrusted})
        return f"{text} Others offer {offers}: name one as codebook=, or allow its owner with trusted_owners={owners}."
    return f"{text} Make one with `vecinfer calibrate {name or 'MODEL'}`."
