# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration text in any form, read into named texts of token ids.

    a text | texts | name -> text            with the tokenizer
    ids | rows of ids | name -> ids          lists, tensors, arrays; also what a tokenizer returned

Owns the forms that are accepted and the errors for all others. windows.py cuts the texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral
from typing import Any, NamedTuple

import torch
from transformers import ProcessorMixin

from ..errors import ConfigError
from .special_tokens import bos_prefix


_FORMS = "a text, a list of texts or a dictionary from name to text, or token ids (a list, a tensor, a BatchEncoding)"
_MODEL_INPUTS = (
    "attention_mask",
    "inputs_embeds",
    "label",
    "labels",
    "pixel_values",
    "position_ids",
    "special_tokens_mask",
    "token_type_ids",
)
"""Names of what stands beside input_ids, and names no text."""


class TokenText(NamedTuple):
    """One text as tokens.

    Args:
        name: recorded in the provenance.
        sha256: of the text in UTF-8, or of the ids as int64.
        ids: int64 `[T]`, on the CPU.
        prefix: tokens that every window of the text begins with.
    """

    name: str
    sha256: str
    ids: torch.Tensor
    prefix: list[int]


def read_source(tokenizer_or_ids: Any, texts: Any = None, tokenizer: Any = None) -> tuple[Any, list[TokenText]]:
    """Return the tokenizer, or None without one, and the texts that a call of `calibrate` gives.

    Args:
        tokenizer_or_ids: the tokenizer, or texts or token ids.
        texts: texts or token ids, if the tokenizer comes first.
        tokenizer: the tokenizer, given by name.

    Raises:
        ConfigError: for arguments that contradict each other, and for anything that is neither text nor token ids.
    """
    first = tokenizer_or_ids
    if callable(first):
        if tokenizer is not None:
            raise ConfigError("tokenizer_or_ids and tokenizer are both a tokenizer; leave one of them out.")
        tokenizer, source = first, texts
    elif first is not None and texts is not None:
        raise ConfigError(
            f"tokenizer_or_ids is {_kind(first)} although texts are given; give the model's tokenizer with them "
            "(AutoTokenizer.from_pretrained), or leave one of the two out."
        )
    else:
        source = texts if first is None else first
    if source is None:
        raise ConfigError(f"texts is None; give text to calibrate on: {_FORMS}.")
    if tokenizer is not None:
        tokenizer = _checked(tokenizer)
    return tokenizer, list(_named_texts(source, tokenizer))


def _checked(tokenizer: Any) -> Any:
    """Return the tokenizer, for a processor that of its text.

    Raises:
        ConfigError: if it is not one.
    """
    if isinstance(tokenizer, ProcessorMixin):
        tokenizer = tokenizer.tokenizer
    answer = tokenizer("") if callable(tokenizer) and not isinstance(tokenizer, (torch.nn.Module, type)) else None
    if not isinstance(answer, Mapping) or "input_ids" not in answer:
        raise ConfigError(
            f"The tokenizer is {_kind(tokenizer)} and returns no input_ids; give the model's tokenizer, for "
            "example AutoTokenizer.from_pretrained(name)."
        )
    return tokenizer


def _named_texts(source: Any, tokenizer: Any) -> Iterator[TokenText]:
    """Yield the texts of whatever was given."""
    source = _plain(source)
    if isinstance(source, str):
        yield _from_text("text", source, tokenizer)
    elif isinstance(source, Mapping) and "input_ids" not in source:
        inputs = sorted(str(name) for name in source if name in _MODEL_INPUTS)
        if inputs:
            raise ConfigError(
                f"A dictionary with {', '.join(inputs)} is a model's input without input_ids; add input_ids, or give "
                f"{_FORMS}."
            )
        for name, item in source.items():
            yield from _one(str(name), item, tokenizer)
    elif _is_collection(source) and not _is_ids(source):
        for index, item in enumerate(source):
            kind = "text" if isinstance(item, str) else "token ids" if _is_ids(_plain(item)) else "entry"
            yield from _one(f"{kind} {index}", item, tokenizer)
    else:
        yield from _one("token ids", source, tokenizer)


def _one(name: str, item: Any, tokenizer: Any) -> Iterator[TokenText]:
    """Yield one text, or one for each row of ids `[B, T]`, without what an attention mask hides."""
    item, mask = _plain(item), None
    if isinstance(item, str):
        yield _from_text(name, item, tokenizer)
        return
    if not _is_ids(item):
        raise ConfigError(f"{name} is {_kind(item)}; calibration reads {_FORMS}.")
    if isinstance(item, Mapping):
        item, mask = _plain(item["input_ids"]), item.get("attention_mask")
    rows = _rows(item)
    if mask is not None:
        masks = _rows(_plain(mask))
        if list(map(len, masks)) != list(map(len, rows)):
            raise ConfigError(f"{name}: attention_mask and input_ids differ in shape; give both as the tokenizer did.")
        rows = [row[kept.bool()] for row, kept in zip(rows, masks, strict=True)]
    for index, ids in enumerate(rows):
        digest = hashlib.sha256(ids.numpy().tobytes()).hexdigest()
        yield TokenText(name if len(rows) == 1 else f"{name} {index}", digest, ids, [])


def _from_text(name: str, text: str, tokenizer: Any) -> TokenText:
    if tokenizer is None:
        raise ConfigError(f"{name}: a text needs the model's tokenizer: calibrate(model, tokenizer, texts).")
    # Texts are cut into windows in their middle, so only the beginning-of-text token is added, if there is one.
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.long)
    return TokenText(name, hashlib.sha256(text.encode()).hexdigest(), ids, bos_prefix(tokenizer))


def _plain(value: Any) -> Any:
    """Return arrays of other libraries (NumPy, pandas) as lists, and all else unchanged."""
    is_array = hasattr(value, "__array__") and hasattr(value, "tolist")
    return value.tolist() if is_array and not isinstance(value, torch.Tensor) else value


def _is_collection(value: Any) -> bool:
    """Return whether several texts may be in this, in an order that does not change from run to run."""
    return isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray, torch.Tensor, set, frozenset))


def _is_ids(value: Any) -> bool:
    """Return whether this is a tensor of integers `[T]` or `[B, T]`, a list of integers or lists, or an encoding."""
    if isinstance(value, Mapping):
        return "input_ids" in value and _is_ids(_plain(value["input_ids"]))
    if isinstance(value, torch.Tensor):
        return value.dim() in (1, 2) and not (value.is_floating_point() or value.dtype == torch.bool)
    return isinstance(value, (list, tuple)) and (
        all(isinstance(number, Integral) and not isinstance(number, bool) for number in value)
        or all(isinstance(row, (list, tuple)) and _is_ids(row) for row in value)
    )


def _rows(value: Any) -> list[torch.Tensor]:
    """Return the rows int64 `[T]`, on the CPU, of an array `[T]` or `[B, T]`, a list of integers or of lists."""
    if isinstance(value, (list, tuple)) and value and not isinstance(value[0], Integral):
        return [torch.tensor(row, dtype=torch.long) for row in value]
    array = torch.as_tensor(value).detach().to("cpu", torch.long)
    return list(array) if array.dim() == 2 else [array]


def _kind(value: Any) -> str:
    """Return the type of a value, of a tensor also its dtype and shape."""
    if isinstance(value, torch.Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    return f"of type {type(value).__name__}"
