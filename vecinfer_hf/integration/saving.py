# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`model.save_pretrained` and `model.push_to_hub` of an enabled model: its codebook goes beside the weights.

    <directory>/model.safetensors, config.json, generation_config.json     as transformers writes them
    <directory>/vecinfer/codebook.safetensors, config.json, README.md      the codebook

Owns when a codebook is written with a model, and what the saved entries say. hub/search.py finds it again.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from ..codebook.codebook import Codebook
from ..codebook.locate import SAVED_FOLDER, saved_with_model
from ..codebook.shipped import shipped_names
from ..config import VecInferConfig
from .request import enabled_state, names_vecinfer


def wrap_save_pretrained(original: Callable) -> Callable:
    """Wrap `PreTrainedModel.save_pretrained`: write the model's codebook into a folder beside the weights."""

    @functools.wraps(original)
    def save_pretrained(self, save_directory, *args, **kwargs):
        codebook = _used_codebook(self)
        if codebook is None or os.path.isfile(save_directory):
            return original(self, save_directory, *args, **kwargs)
        folder = Path(save_directory) / SAVED_FOLDER
        with _relative_entries(self, lambda: codebook.save_pretrained(folder)):
            return original(self, save_directory, *args, **kwargs)

    return save_pretrained


def _used_codebook(model: PreTrainedModel) -> Codebook | None:
    """Return the codebook to save with a model: that of `enable`, or the one it was loaded with; None for none."""
    state = enabled_state(model)
    if state is not None:
        return state.codebook
    generation_config = getattr(model, "generation_config", None)
    if not names_vecinfer(getattr(generation_config, "cache_config", None)):
        return None
    directory = saved_with_model(getattr(model.config, "_name_or_path", ""))
    return None if directory is None else Codebook.from_pretrained(directory)


@contextmanager
def _relative_entries(model: PreTrainedModel, write: Callable[[], None]) -> Iterator[None]:
    """Write the codebook while a model is saved; the saved entries name no directory of this machine.

    They name none then, so that the codebook beside the weights is found. Names of shipped codebooks and of commits on
    the Hub stay.

    transformers uploads what was written after it looked at the directory, and saves the generation config then.

    Args:
        model: the model; its own entries are as before afterwards.
        write: writes the codebook.
    """
    generation_config: GenerationConfig = model.generation_config
    cache_config, quantization_config = (
        generation_config.cache_config,
        getattr(model.config, "quantization_config", None),
    )

    def save(*args: Any, **kwargs: Any) -> None:
        del generation_config.save_pretrained
        write()
        generation_config.save_pretrained(*args, **kwargs)

    try:
        if isinstance(quantization_config, VecInferConfig):
            model.config.quantization_config = _without_place(quantization_config)
        if names_vecinfer(cache_config):
            options = VecInferConfig.from_cache_config(cache_config)
            generation_config.cache_config = _without_place(options).cache_config()
        generation_config.save_pretrained = save
        yield
    finally:
        vars(generation_config).pop("save_pretrained", None)
        generation_config.cache_config = cache_config
        if isinstance(quantization_config, VecInferConfig):
            model.config.quantization_config = quantization_config


def _without_place(config: VecInferConfig) -> VecInferConfig:
    """Return the options; a codebook that is named by a directory is named no longer."""
    config = copy.copy(config)
    if config.revision or config.codebook in shipped_names():
        return config
    config.codebook = config.revision = config.subfolder = None
    return config
