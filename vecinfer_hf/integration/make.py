# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A codebook made because none was found: once per weights and bits, for this process and the next ones.

Owns when one may be made, and what happens where it cannot be kept. calibration/auto_codebook.py makes it,
codebook/kept.py keeps it.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from transformers import PreTrainedModel
from transformers.utils import logging

from ..calibration.auto_codebook import auto_config, make_codebook
from ..codebook.codebook import Codebook
from ..codebook.fingerprint import weights_fingerprint
from ..codebook.kept import ROOT_VARIABLE, KeptCodebook, keep, kept_codebook, load_kept, locked
from ..config import VecInferConfig
from ..errors import CodebookError, ConfigError
from ..quantization.formats import parse_format


MAKE_VARIABLE = "VECINFER_MAKE_CODEBOOK"
"""Environment variable: 0 forbids `codebook="auto"` to make a codebook, unless a config says `make=True`."""

logger = logging.get_logger(__name__)


def may_make(config: VecInferConfig) -> bool:
    """Return whether `codebook="auto"` may make a codebook.

    Raises:
        ConfigError: for a value of the environment variable that means neither.
    """
    if config.make is not None:
        return config.make
    value = os.environ.get(MAKE_VARIABLE, "1").strip().lower()
    if value not in ("0", "1", "false", "true", "no", "yes"):
        raise ConfigError(f"{MAKE_VARIABLE}={value!r} in the environment; it must be 0 or 1.")
    return value in ("1", "true", "yes")


def made_codebook(model: PreTrainedModel, config: VecInferConfig) -> Codebook:
    """Return a codebook made for `model`: by this process, or by another one that is making it now.

    Args:
        model: the model, with its weights.
        config: `key_bits`, `value_bits` and `budget` are used.

    Raises:
        UnsupportedModelError, ConfigError: if none can be made for this model.
    """
    if (getattr(model, "tp_size", None) or 1) > 1:
        raise ConfigError(
            'codebook="auto" found none, and none is made while a model is spread over processes (tensor '
            "parallelism). Load it in one process once, with device_map if it needs several GPUs, or name a codebook."
        )
    kept = kept_codebook(weights_fingerprint(model), bits_name(config))
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(kept, lambda: _tell_waiting(kept)))
        except OSError as error:
            logger.warning(f"vecinfer: {kept.directory} cannot be used ({error}).")
        codebook = _made_meanwhile(kept)
        if codebook is None:
            codebook = make_codebook(
                model, key_bits=config.key_bits, value_bits=config.value_bits, budget=config.budget
            )
            _keep(kept, codebook)
    return codebook


def bits_name(config: VecInferConfig) -> str:
    """Return the name that kept codebooks with these bits have: a mean ("2bit"), or formats of keys and values."""
    made = auto_config(config.key_bits, config.value_bits)
    if made.allocate is not None:
        return f"{made.allocate:g}bit"
    return f"{parse_format(made.key_bits).name}-{parse_format(made.value_bits).name}"


def _tell_waiting(kept: KeptCodebook) -> None:
    logger.warning(f"vecinfer: another process is making this codebook; waiting for {kept.directory}.")


def _made_meanwhile(kept: KeptCodebook) -> Codebook | None:
    """Return what another process made since this one looked; None also for a codebook that cannot be read."""
    try:
        return load_kept(kept)
    except (CodebookError, OSError) as error:
        logger.warning(f"vecinfer: a kept codebook cannot be used and is made anew: {error}")
        return None


def _keep(kept: KeptCodebook, codebook: Codebook) -> None:
    try:
        keep(kept, codebook)
    except (CodebookError, OSError) as error:
        logger.warning(
            f"vecinfer: the codebook could not be kept ({error}), so the next process makes it again. Give "
            f"{ROOT_VARIABLE} a directory that can be written, or save it: codebook.save_pretrained(directory)."
        )
        return
    logger.warning(f"vecinfer: kept in {kept.directory} for later processes (`vecinfer codebooks list`).")
