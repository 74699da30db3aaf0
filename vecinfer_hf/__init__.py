# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""VecInfer for Hugging Face transformers: a vector-quantized key/value cache (https://arxiv.org/abs/2510.06175).

Importing this package registers "vecinfer" with transformers and changes nothing else.
"""

from .cache.cache import VecInferCache
from .calibration import calibrate
from .codebook.codebook import Codebook, CodebookError
from .config import VecInferConfig
from .hub.search import find_codebooks
from .integration import registration
from .integration.compat import cache_argument
from .integration.registration import disable, enable
from .version import __version__


__all__ = [
    "Codebook",
    "CodebookError",
    "VecInferCache",
    "VecInferConfig",
    "__version__",
    "cache_argument",
    "calibrate",
    "disable",
    "enable",
    "find_codebooks",
]

registration.install()
