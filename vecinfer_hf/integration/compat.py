# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What transformers calls a cache: `cache` since 5.24, `past_key_values` before.

Owns the name, as a model's argument, among `generate`'s own keyword arguments, and as a field of outputs.
"""

from __future__ import annotations

import inspect

from transformers import Cache
from transformers.generation import GenerationMixin
from transformers.utils import ModelOutput


_PARAMETERS = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
CACHE_ARGUMENT = "cache" if "cache" in _PARAMETERS else "past_key_values"
"""The name. From 5.24 on transformers still takes the old one from users, with a FutureWarning, and renames it."""


def cache_argument(cache: Cache) -> dict[str, Cache]:
    """Return `cache` as a keyword argument of a model or of `generate`: `model.generate(**cache_argument(cache))`."""
    return {CACHE_ARGUMENT: cache}


def returned_cache(output: ModelOutput) -> Cache | None:
    """Return the cache in what a model or `generate(return_dict_in_generate=True)` returned."""
    return output[CACHE_ARGUMENT] if CACHE_ARGUMENT in output else None
