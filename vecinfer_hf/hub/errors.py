# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What to do about a failed Hub call: try again, or say in one sentence what is wrong and what helps.

Owns the mapping from the clients' exceptions to waits and messages; hub.py owns the calls.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.utils import logging

from ..errors import TRANSIENT, CodebookHubError, status_of, unreachable


logger = logging.get_logger(__name__)
Result = TypeVar("Result")

TRIES = 4
FIRST_WAIT = 1.0
"""Seconds before the second try; doubled for each further one, unless the Hub says when to come back."""
LONGEST_WAIT = 60.0

_DISK = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file would be larger than this process may write; raise the limit (ulimit -f)",
    errno.EROFS: "it is read-only; make it writable",
    errno.EACCES: "this user may not write there; change its permissions",
    errno.EPERM: "this user may not write there; change its permissions",
}


def with_retries(call: Callable[[], Result], *, statuses: tuple[int, ...] = TRANSIENT) -> Result:
    """Return `call()`, trying again when the connection fails or the Hub answers with one of `statuses`.

    An error that is raised after all has the number of tries as its attribute `vecinfer_tries`, for `explained`.
    """
    wait = FIRST_WAIT
    for left in range(TRIES - 1, -1, -1):
        try:
            return call()
        except Exception as error:
            status = status_of(error)
            again = status in statuses if status is not None else unreachable(error)
            if left == 0 or not again or isinstance(error, OfflineModeIsEnabled):
                error.vecinfer_tries = TRIES - left  # type: ignore[attr-defined]
                raise
            seconds = min(_asked_wait(error) or wait, LONGEST_WAIT)
            logger.warning(f"The Hub {_what(error)}; trying again in {seconds:g} s ({left} more).")
            time.sleep(seconds)
            wait *= 2
    raise AssertionError("unreachable")


def explained(error: Exception, what: str, revision: str | None = None, cache_dir: object = None) -> CodebookHubError:
    """Return the CodebookHubError that says what went wrong with `what` and what to do about it."""
    return CodebookHubError(f"{what}: {_explanation(error, revision, cache_dir)}")


def _explanation(error: Exception, revision: str | None, cache_dir: object) -> str:
    status = status_of(error)
    if isinstance(error, GatedRepoError):
        return "access to it is restricted; ask for access on its page, then log in with `hf auth login`."
    if status == 401 and "Invalid credentials" in str(error):
        return "the Hub refused the token (401): it was revoked or has expired. Log in again with `hf auth login`."
    if isinstance(error, RepositoryNotFoundError):
        login = "log in with `hf auth login` or pass token=" if status == 401 else "use a token that may read it"
        return f"there is no such repository ({status}), or it is private: check the name, or {login}."
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision!r}; use a branch, a tag or a commit that exists."
    if status in (401, 403):
        return (
            f"the Hub does not allow it ({status}): {_server_message(error)}. Use a token with the right to do it, "
            "or offer the change with create_pr=True."
        )
    if unreachable(error):
        tries = getattr(error, "vecinfer_tries", 1)
        after = f", also after {tries} tries" if tries > 1 else ""
        return f"the Hub {_what(error)}{after}. Try later; what is cached works with local_files_only."
    if isinstance(error, LocalEntryNotFoundError):
        return "it is not in the local cache; download it once while online (`vecinfer pull`)."
    if isinstance(error, OSError) and error.errno in _DISK:
        place = error.filename or cache_dir or "the cache"
        return f"cannot write to {place}: {_DISK[error.errno]}, or choose another place with cache_dir= or HF_HOME."
    return f"{type(error).__name__}: {error}"


def _what(error: BaseException) -> str:
    status = status_of(error)
    if status == 429:
        return "asks to slow down (429)"
    if status is not None:
        return f"answered with an error ({status})"
    return f"cannot be reached ({type(error).__name__}: {error})"


def _server_message(error: Exception) -> str:
    return (getattr(error, "server_message", None) or str(error)).strip().splitlines()[-1].rstrip(".")


def _asked_wait(error: BaseException | None) -> float | None:
    response = getattr(error, "response", None) if isinstance(error, HfHubHTTPError) else None
    value = response.headers.get("Retry-After") if response is not None else None
    return float(value) if value is not None and value.isdigit() else None
