# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Fields: one object of a codebook's config.json, read strictly, field by field."""

from __future__ import annotations

from typing import Any

from ..errors import CodebookError


LONGEST_TEXT = 1024
"""Characters of a name in config.json, at most."""
_REMEDY = "Download or calibrate the codebook again."
_KINDS = {dict: "an object", list: "a list", str: "a string", int: "an integer", bool: "true or false"}


class Fields:
    """The fields of one JSON object. Each is taken once; `finish` refuses those that nobody took.

    Args:
        where: what messages call the object, for example "model.layers[3]"; "" for the whole file.
        data: the JSON value, which must be an object.

    Raises:
        CodebookError: if `data` is of another kind.
    """

    def __init__(self, where: str, data: Any):
        if not isinstance(data, dict):
            raise CodebookError(f"{where} is {_shown(data)}; it must be an object. {_REMEDY}")
        self.where = where
        self._left = dict(data)

    def take(self, name: str, kind: type) -> Any:
        """Return a field of exactly this type; CodebookError if it is missing or of another."""
        if name not in self._left:
            raise CodebookError(f"{self.where or 'the file'} has no {name!r}. {_REMEDY}")
        value = self._left.pop(name)
        if type(value) is not kind:
            raise CodebookError(f"{self._path(name)} is {_shown(value)}; it must be {_KINDS[kind]}. {_REMEDY}")
        return value

    def _path(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name

    def optional(self, name: str, kind: type) -> Any:
        """Return a field of this type, or None if it is missing or null."""
        if self._left.get(name) is None:
            self._left.pop(name, None)
            return None
        return self.take(name, kind)

    def integer(self, name: str, least: int, most: int) -> int:
        """Return an integer field from `least` to `most`."""
        value = self.take(name, int)
        if not least <= value <= most:
            raise CodebookError(f"{self._path(name)} is {_shown(value)}; it must be from {least} to {most}. {_REMEDY}")
        return value

    def text(self, name: str, optional: bool = False) -> str | None:
        """Return a field of at most 1024 printable characters; with `optional` it may be missing or null."""
        value = self.optional(name, str) if optional else self.take(name, str)
        if value is not None and (len(value) > LONGEST_TEXT or not value.isprintable()):
            raise CodebookError(
                f"{self._path(name)} is {_shown(value)}; it must be at most {LONGEST_TEXT} printable characters. "
                f"{_REMEDY}"
            )
        return value

    def finish(self) -> None:
        """Raise CodebookError if fields are left."""
        if self._left:
            names = ", ".join(_shown(name) for name in sorted(self._left)[:3])
            raise CodebookError(
                f"{self.where or 'the file'} has the unknown field(s) {names}. If a newer version wrote them, upgrade "
                "with `pip install -U vecinfer-hf`."
            )


def _shown(value: Any) -> str:
    """Return a short text for a value of any kind."""
    if isinstance(value, (dict, list)):
        return _KINDS[type(value)]
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a huge integer"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
