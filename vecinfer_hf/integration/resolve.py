# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""From a name in a cache_config to a Codebook, loaded once per process.

Owns the message a user gets when there is none. search.py finds codebooks, codebook.py reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from ..codebook.codebook import Codebook, shipped_names
from ..codebook.files import TENSORS_NAME, CodebookError
from ..model_info import model_identity


_loaded: dict[tuple, Codebook] = {}


def load_codebook(config: PreTrainedConfig, options: dict[str, Any]) -> Codebook:
    """Return the codebook that the options of a cache_config name; a second call returns the same object.

    Args:
        config: the model's config.
        options: `codebook`, `revision`, `subfolder`, `trusted_owners` of a cache_config.

    Raises:
        CodebookError: if no codebook is named or the named one cannot be loaded.
    """
    name = options.get("codebook")
    if name is None:
        raise CodebookError(
            "cache_config names no codebook and the model carries none. Pass "
            'cache_config={"codebook": <directory, shipped name, Hub repository or "auto">}, or make one with '
            f"`vecinfer calibrate MODEL`. Shipped with this package: {shipped_names() or 'none'}."
        )
    key = (
        model_identity(config)["name"] if name == "auto" else None,
        name,
        options.get("revision"),
        options.get("subfolder"),
        _modified(name, options.get("subfolder")),
    )
    if key not in _loaded:
        arguments = {key: options[key] for key in ("revision", "subfolder") if options.get(key)}
        if name == "auto":
            from ..hub.search import resolve_codebook

            found = resolve_codebook(name, config, trusted_owners=options.get("trusted_owners") or (), **arguments)
            codebook = Codebook.from_pretrained(found.directory)
            codebook.source = {"codebook": found.name, "revision": found.commit, "subfolder": found.subfolder}
            codebook.source = {key: value for key, value in codebook.source.items() if value}
        else:
            codebook = Codebook.from_pretrained(name, **arguments)
        _loaded[key] = codebook
    return _loaded[key]


def _modified(name: str, subfolder: str | None) -> int | None:
    """Modification time of a local codebook, so that one that was calibrated again is read again."""
    path = Path(name).expanduser() / (subfolder or "") / TENSORS_NAME
    return path.stat().st_mtime_ns if path.is_file() else None
