# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C while the command line still imports torch and transformers, which takes seconds. Imports nothing heavy."""

from __future__ import annotations

import os
import sys
from types import TracebackType


INTERRUPTED = 130
"""Exit code after Ctrl-C."""
SENTENCE = "vecinfer: interrupted"


def tell_in_one_line() -> None:
    """Let a KeyboardInterrupt that nobody handles print one line and end the process with code 130."""
    sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    print(SENTENCE, file=sys.stderr, flush=True)
    # Python would end itself by the signal, and libraries that are half imported may not survive a clean end.
    os._exit(INTERRUPTED)
