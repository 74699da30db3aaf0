# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""VecInfer for Hugging Face transformers: a vector-quantized key/value cache (https://arxiv.org/abs/2510.06175).

Importing this package registers "vecinfer" with transformers and changes nothing else.
"""

import importlib
import os
import sys


if sys.orig_argv[1:3] == ["-m", __name__] or os.path.basename((sys.argv or [""])[0]) == "vecinfer":
    # This process is the command line, and the imports below take seconds.
    from .cli import interruption

    interruption.tell_in_one_line()

from .cache.cache import VecInferCache
from .calibration_config import CalibrationConfig
from .codebook.codebook import Codebook
from .config import VecInferConfig
from .errors import (
    BackendError,
    CacheStateError,
    CodebookError,
    CodebookHubError,
    ConfigError,
    NoCodebookError,
    SavedCacheError,
    UnsupportedCallError,
    UnsupportedMaskError,
    UnsupportedModelError,
    VecInferError,
)
from .integration import registration
from .integration.context import Context
from .integration.enable import disable, enable, enabled
from .integration.resolve import forget_codebooks
from .model_info import supported
from .version import __version__


__all__ = [
    "BackendError",
    "CacheStateError",
    "CalibrationConfig",
    "Codebook",
    "CodebookError",
    "CodebookHubError",
    "ConfigError",
    "Context",
    "NoCodebookError",
    "SavedCacheError",
    "UnsupportedCallError",
    "UnsupportedMaskError",
    "UnsupportedModelError",
    "VecInferCache",
    "VecInferConfig",
    "VecInferError",
    "__version__",
    "calibrate",
    "disable",
    "enable",
    "enabled",
    "find_codebooks",
    "forget_codebooks",
    "make_codebook",
    "supported",
]

_LAZY = {
    "calibrate": "calibration.calibrate",
    "find_codebooks": "hub.search",
    "make_codebook": "calibration.auto_codebook",
}
"""Public names that a user of the cache does not need, and the modules they are loaded from at first use."""


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)


registration.install()
