# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The metadata on a card: what the Hub searches by, and what a search learns of a codebook without a download."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from huggingface_hub import CardData, ModelCardData


if TYPE_CHECKING:
    from ..codebook.codebook import Codebook

LIBRARY_NAME = "vecinfer"
TAGS = ("vecinfer", "kv-cache", "vector-quantization")
_DESCRIBED: dict[str, tuple[type, ...]] = {
    "base_model": (str, type(None)),
    "bits_per_element": (int, float),
    "key_bits": (int, float),
    "value_bits": (int, float),
    "recipe": (str,),
}
"""The facts that a card's metadata give about each of its codebooks, and their types."""
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_LICENCE = re.compile(r"[A-Za-z0-9.+-]{1,64}")


def base_model_id(name: str) -> str | None:
    """Return the Hub id that a model's name is, or None if it came from a directory."""
    return name if _HUB_ID.fullmatch(name) else None


def describe(codebook: Codebook) -> dict[str, Any]:
    """Return the few facts about a codebook that its card's metadata carry, so that a search needs no download."""
    bits = codebook.mean_bits
    return {
        "base_model": base_model_id(codebook.identity.name),
        "bits_per_element": round(bits.bits_per_element, 4),
        "key_bits": round(bits.key_bits, 4),
        "value_bits": round(bits.value_bits, 4),
        "recipe": codebook.config.recipe,
    }


def licence_of(codebook: Codebook) -> str | None:
    """Return the identifier of the licence in the provenance, or None if there is none."""
    licence = codebook.provenance.get("license")
    return licence if isinstance(licence, str) and _LICENCE.fullmatch(licence) else None


def card_data(entries: Mapping[str, Mapping[str, Any]], licence: str | None = None) -> ModelCardData:
    """Return the metadata of a repository's card.

    Args:
        entries: subfolder ("" for the root) -> `describe(codebook)`.
        licence: identifier of the licence, for example "apache-2.0".
    """
    bases = list(dict.fromkeys(entry["base_model"] for entry in entries.values() if entry.get("base_model")))
    bits = sorted({f"{entry['bits_per_element']:g}-bit" for entry in entries.values()})
    more: dict[str, Any] = {"base_model_relation": "quantized"} if bases else {}
    listed = [{"subfolder": name, **entry} for name, entry in sorted(entries.items())]
    return ModelCardData(
        base_model=(bases[0] if len(bases) == 1 else bases) or None,
        library_name=LIBRARY_NAME,
        license=licence,
        tags=[*TAGS, *bits],
        vecinfer=listed,
        **more,
    )


def listed_entries(data: CardData) -> dict[str, dict[str, Any]]:
    """Return subfolder -> description as `card_data` wrote them; entries of another form are left out."""
    listed = getattr(data, "vecinfer", None)
    entries = [dict(entry) for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    known = {str(entry.pop("subfolder", "") or ""): entry for entry in entries}
    return {
        name: {key: entry[key] for key in _DESCRIBED}
        for name, entry in known.items()
        if all(key in entry and isinstance(entry[key], kinds) for key, kinds in _DESCRIBED.items())
    }
