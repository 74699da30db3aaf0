# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The models and the texts that the demo, the tests and the published numbers use; nothing else needs them."""

from .models import GGUF_SHA256, SMOLLM2_ID, SMOLLM2_NAME, smollm2_directory
from .split_models import SPLIT_MODELS, split_model_directory
from .storage import cache_directory
from .texts import TEXTS, load_text


__all__ = [
    "GGUF_SHA256",
    "SMOLLM2_ID",
    "SMOLLM2_NAME",
    "SPLIT_MODELS",
    "TEXTS",
    "cache_directory",
    "load_text",
    "smollm2_directory",
    "split_model_directory",
]
