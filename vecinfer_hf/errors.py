# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The errors of this package: one base class and its kinds. Each message names the value, the rule and the remedy.

Also which errors of others mean that the Hub did not answer: codebooks (hub) and kernels (ops) are downloaded.
"""

import importlib
from collections.abc import Sequence
from contextlib import suppress

from huggingface_hub.errors import OfflineModeIsEnabled


TRANSIENT = (408, 429, 500, 502, 503, 504)
"""HTTP statuses that may be gone at the next try."""


class VecInferError(Exception):
    """Base class of every error that this package raises on purpose."""


class ConfigError(VecInferError, ValueError):
    """An option has a value that breaks its rule, contradicts another one, or is unknown."""


class UnsupportedModelError(VecInferError, ValueError):
    """A model cannot run with a cache of codes, or cannot be calibrated."""


class UnsupportedCallError(VecInferError, ValueError):
    """A call asks for something that the cache cannot do; nothing was stored."""


class UnsupportedMaskError(UnsupportedCallError):
    """An attention mask is not causal attention over the row's own tokens; nothing was stored."""


class CacheStateError(VecInferError, RuntimeError):
    """A forward pass ended midway, so layers hold different tokens; `crop` or `reset` repairs the cache."""


class BackendError(VecInferError, RuntimeError):
    """The operators that were asked for cannot serve this device, dtype or shape."""


class KernelBuildError(VecInferError, RuntimeError):
    """Kernels cannot be built or taken here.

    Args:
        message: what stands in the way, and what can be done.
        tail: the last lines that a compiler wrote.
    """

    def __init__(self, message: str, tail: Sequence[str] = ()):
        super().__init__(message)
        self.tail = tuple(tail)


class CodebookError(VecInferError, ValueError):
    """A codebook cannot be found, read or used with a model."""


class NoCodebookError(CodebookError):
    """`codebook="auto"` found no codebook for a model, and none is made.

    Args:
        message: what was looked at, and what can be done.
        offers: what owners who are not trusted offer.
    """

    def __init__(self, message: str, offers: Sequence[str] = ()):
        super().__init__(message)
        self.offers = tuple(offers)


class SavedCacheError(VecInferError, ValueError):
    """A saved cache cannot be written, read, or used with a model or codebook."""


class CodebookHubError(VecInferError, OSError):
    """A codebook could not be moved to or from the Hub."""


def transport_errors() -> tuple[type[Exception], ...]:
    """Return the exception types of a connection that failed; huggingface_hub changed its HTTP library at 2.0."""
    found: list[type[Exception]] = [OfflineModeIsEnabled]
    for name in ("httpx2", "httpx"):
        with suppress(ImportError):
            found.append(importlib.import_module(name).TransportError)
    return tuple(found)


def status_of(error: BaseException | None) -> int | None:
    """Return the HTTP status behind an exception or the causes of it, if there is one."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response.status_code
        error = error.__cause__
    return None


def unreachable(error: BaseException | None) -> bool:
    """Return whether the Hub did not answer, or answered that it cannot now."""
    status = status_of(error)
    if status is not None:
        return status in TRANSIENT
    while error is not None:
        if isinstance(error, transport_errors()):
            return True
        error = error.__cause__
    return False
