# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The one switch of a model's attention to "vecinfer" and back.

`enable` switches until `disable`; a `generate` call switches while it runs. A model's attention is one field of its
config, read several times in each forward pass, so this module counts the `generate` calls of all threads and never
changes the field under one of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedCallError
from ..model_info import text_config


NAME = "vecinfer"

_changed = threading.Condition()
"""Held while the field or the calls below change; notified when a call ends."""


@dataclass
class _Calls:
    """The `generate` calls that run on one config, as the identifiers of their threads."""

    config: PreTrainedConfig
    with_vecinfer: list[int] = field(default_factory=list)
    with_own: list[int] = field(default_factory=list)
    restore: str | None = None
    """The attention that is set when the last of `with_vecinfer` ends; None if it stays."""


_running: dict[int, _Calls] = {}
"""By the id of the config, which the entry keeps alive."""


def has_vecinfer_attention(model: PreTrainedModel) -> bool:
    """Whether the attention of `model` is "vecinfer" now."""
    return _name(_config(model)) == NAME


def own_attention(model: PreTrainedModel) -> str:
    """Return the attention implementation of `model`, whatever the calls that run right now have switched."""
    config = _config(model)
    with _changed:
        calls = _running.get(id(config))
        return (calls.restore if calls else None) or _name(config)


def use_vecinfer_attention(model: PreTrainedModel) -> str:
    """Switch the attention of `model` to "vecinfer" to stay, and return the implementation it had.

    With any other cache than VecInfer's, "vecinfer" attention is SDPA. Only the language model of a model with
    several parts is switched.

    Raises:
        UnsupportedCallError: if called inside a `generate` of this model that uses no codes.
    """
    config = _config(model)
    with _changed:
        calls = _running.get(id(config))
        if calls is not None and calls.restore is not None:
            before, calls.restore = calls.restore, None
            return before
        _wait_for_other_threads(config)
        before = _name(config)
        _set(config, NAME)
        return before


def restore_attention(model: PreTrainedModel, name: str, *, always: bool = False) -> None:
    """Set the attention of `model` to `name`, at once or when the last running call that needs "vecinfer" ends.

    Args:
        model: the model.
        name: the implementation.
        always: whether to set it also if somebody has set another one than "vecinfer" since.
    """
    config = _config(model)
    with _changed:
        if _name(config) != NAME and not always:
            return
        calls = _running.get(id(config))
        if calls is not None and calls.with_vecinfer:
            calls.restore = None if name == NAME else name
        else:
            _set(config, name)


@contextmanager
def attention_of_call(model: PreTrainedModel, needs_vecinfer: bool) -> Iterator[None]:
    """Keep the attention of `model` as it is while one `generate` call runs, switched to "vecinfer" if needed.

    A call that needs the switch waits for calls of other threads that began with the model's own attention. Calls that
    begin while it is switched run with "vecinfer" attention, which is SDPA for their caches.

    Raises:
        UnsupportedCallError: as `use_vecinfer_attention`.
    """
    config, thread = _config(model), threading.get_ident()
    with _changed:
        if needs_vecinfer:
            _wait_for_other_threads(config)
        calls = _running.setdefault(id(config), _Calls(config))
        if needs_vecinfer and _name(config) != NAME:
            calls.restore = _name(config)
            _set(config, NAME)
        threads = calls.with_vecinfer if _name(config) == NAME else calls.with_own
        threads.append(thread)
    try:
        yield
    finally:
        with _changed:
            threads.remove(thread)
            if not calls.with_vecinfer and calls.restore is not None:
                if _name(config) == NAME:
                    _set(config, calls.restore)
                calls.restore = None
            if not calls.with_vecinfer and not calls.with_own:
                del _running[id(config)]
            _changed.notify_all()


def _wait_for_other_threads(config: PreTrainedConfig) -> None:
    """Wait until no thread generates with the model's own attention; `_changed` is held."""
    thread = threading.get_ident()

    def with_own() -> list[int]:
        calls = _running.get(id(config))
        return calls.with_own if calls is not None and _name(config) != NAME else []

    if thread in with_own():
        # It would wait for itself.
        raise UnsupportedCallError(
            "A generate call cannot use codes inside another generate call of the same model that uses none. Call "
            "vecinfer_hf.enable(model) before the outer call."
        )
    _changed.wait_for(lambda: not with_own())


def _config(model: PreTrainedModel) -> PreTrainedConfig:
    """Return the config whose attention is switched: that of the language model."""
    try:
        return text_config(model.config)
    except ValueError:
        # A model with several language models has no VecInfer cache, but its calls come here as well.
        return model.config


def _name(config: PreTrainedConfig) -> str:
    return config._attn_implementation or "eager"


def _set(config: PreTrainedConfig, name: str) -> None:
    # A dictionary, as a plain name would also be set in the configs inside this one.
    config._attn_implementation = {"": name}
