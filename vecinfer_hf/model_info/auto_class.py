# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Which of transformers' auto classes loads a model: the one for text, or the one for images and text."""

from __future__ import annotations

from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def takes_images(config: PreTrainedConfig) -> bool:
    """Whether a config asks for `AutoModelForImageTextToText`: no text model of transformers has it."""
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING


def auto_class(config: PreTrainedConfig) -> type[AutoModelForCausalLM] | type[AutoModelForImageTextToText]:
    """Return the auto class whose `from_pretrained` and `from_config` make the model of a config."""
    return AutoModelForImageTextToText if takes_images(config) else AutoModelForCausalLM
