# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a codebook, read as a pair that belongs together.

Owns their names and sizes. description.py and format_1.py own what config.json says, tensors.py what
codebook.safetensors holds, saving.py how the pair is replaced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..config import read_json
from ..errors import CodebookError
from ..ops.types import LayerCodebook
from .description import FORMAT_VERSION, Description, description_from_dict
from .format_1 import description_from_format_1
from .tensors import LayerForm, layer_forms, read_header, read_layers


CONFIG_NAME = "config.json"
TENSORS_NAME = "codebook.safetensors"
MAX_CONFIG_BYTES = 16 << 20
MAX_TENSORS_BYTES = 4 << 30
"""The largest codebook in sight (80 layers, 8 heads of 128, full matrices) has 0.2 GB."""
_TRIES = 100
Content = TypeVar("Content")


def interim_name(sha256: str) -> str:
    """Return the name under which new tensors lie beside the old ones until config.json names them."""
    return f"codebook-{sha256}.safetensors"


def file_digest(path: Path, digest: Any) -> str:
    """Return the hexadecimal digest of a file's content, added to a `hashlib` digest."""
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def load_files(directory: Path) -> tuple[Description, dict[int, LayerCodebook]]:
    """Return what the files in `directory` say and hold. Format 2: the tensors' hash is checked before any is read.

    Raises:
        CodebookError: if a file is missing or damaged, breaks a rule, or the two do not belong together.
    """

    def load() -> tuple[Description, dict[int, LayerCodebook]]:
        description = read_description(directory)
        path = _tensors_path(directory, description)
        _check_promises(layer_forms(read_header(path), description.identity.layers, path), description, path)
        return description, read_layers(path, description.identity.layers)

    return _undisturbed(load, directory)


def load_forms(directory: Path) -> tuple[Description, dict[int, LayerForm]]:
    """Return what config.json says and the form of each layer. No tensor is read, and no hash checked.

    Raises:
        CodebookError: as `load_files`.
    """

    def load() -> tuple[Description, dict[int, LayerForm]]:
        description = read_description(directory)
        path = _tensors_path(directory, description, check_hash=False)
        return description, layer_forms(read_header(path), description.identity.layers, path)

    return _undisturbed(load, directory)


def read_description(directory: Path) -> Description:
    """Return what config.json says, of either format.

    Raises:
        CodebookError: if it is missing, not JSON, of an unknown format version, or breaks a rule.
    """
    path = directory / CONFIG_NAME
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise CodebookError(f"{path} {what}, so {directory} is not a codebook; make one with `vecinfer calibrate`.")
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"it has more than {MAX_CONFIG_BYTES} bytes")
        data = read_json(path)
        # Lone halves of surrogate pairs are valid JSON, but no text.
        json.dumps(data, ensure_ascii=False).encode("utf-8")
        version = data.get("format_version") if isinstance(data, dict) else None
        if type(version) is not int:
            raise ValueError("it has no format_version, or one that is no integer")
    except (OSError, ValueError, RecursionError) as error:
        raise CodebookError(f"{path} is not a codebook's config ({error}); download or calibrate it again.") from error
    if version > FORMAT_VERSION:
        raise CodebookError(
            f"{path} has a format version above {FORMAT_VERSION}, the newest that this vecinfer_hf reads; upgrade "
            "with `pip install -U vecinfer-hf`."
        )
    if version < 1:
        raise CodebookError(f"{path} has a format version below 1, which is the first. Calibrate again.")
    try:
        return (description_from_format_1 if version == 1 else description_from_dict)(data)
    except CodebookError as error:
        raise CodebookError(f"{path}: {error}") from error


def _tensors_path(directory: Path, description: Description, check_hash: bool = True) -> Path:
    """Return the file of the tensors that the description names; CodebookError if there is none."""
    path, sha256 = directory / TENSORS_NAME, description.sha256
    # A save that was stopped after its commit (saving.py) leaves the tensors under their interim name.
    places = [path] if sha256 is None else [path, directory / interim_name(sha256)]
    places = [place for place in places if place.is_file()]
    if not places:
        what = "is not a file" if path.exists() else "does not exist"
        raise CodebookError(f"{path} {what}; the codebook is incomplete, download it again.")
    for place in places:
        if place.stat().st_size > MAX_TENSORS_BYTES:
            raise CodebookError(
                f"{place} has more than {MAX_TENSORS_BYTES} bytes, which no codebook needs; download it again."
            )
        if sha256 is None or not check_hash or file_digest(place, hashlib.sha256()) == sha256:
            return place
    raise CodebookError(
        f"{places[0]} has another SHA-256 than {CONFIG_NAME} names, {sha256}: the two do not belong together, or the "
        "tensors are damaged. Download or calibrate the codebook again."
    )


def _check_promises(forms: dict[int, LayerForm], description: Description, path: Path) -> None:
    """Raise CodebookError if tensors are of other formats than config.json says."""
    for index, form in description.promised.items():
        if forms[index] != form:
            raise CodebookError(
                f"{path}: layer {index} holds {_words(forms[index])}, but its {CONFIG_NAME} promises {_words(form)}; "
                "the files do not belong together. Download or calibrate the codebook again."
            )


def _words(form: LayerForm) -> str:
    return " and ".join(
        f"{side} {own.code_format.name} ({own.transform or 'no transform'}, {'a' if own.mean else 'no'} mean)"
        for side, own in form._asdict().items()
    )


def _undisturbed(load: Callable[[], Content], directory: Path) -> Content:
    """Return `load()`, repeated while another process replaces the codebook in between."""
    for _ in range(_TRIES):
        before = _state(directory)
        try:
            loaded = load()
        except (CodebookError, OSError) as error:
            if _state(directory) != before:
                continue
            if isinstance(error, CodebookError):
                raise
            raise CodebookError(
                f"{directory} cannot be read ({error}); check its permissions or download it again."
            ) from error
        if _state(directory) == before:
            return loaded
    raise CodebookError(f"{directory} was saved to by another process at every try; load it when that has ended.")


def _state(directory: Path) -> tuple[Any, ...]:
    """Return what every save changes: the content of config.json, and which file the tensors are."""
    config, tensors = directory / CONFIG_NAME, directory / TENSORS_NAME
    try:
        # Reading anything else but a file, such as a pipe, might never end.
        content = config.read_bytes() if config.is_file() and config.stat().st_size <= MAX_CONFIG_BYTES else None
    except OSError:
        content = None
    try:
        found = tensors.stat()
    except OSError:
        return (content,)
    return content, found.st_ino, found.st_mtime_ns, found.st_size
