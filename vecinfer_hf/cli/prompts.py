# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""From what a user gives `vecinfer generate` to a model's inputs: text, standard input, an image."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, PreTrainedTokenizerBase
from transformers.image_utils import load_image

from ..errors import ConfigError
from ..model_info.auto_class import takes_images
from .console import errors
from .loading import load_config


def check_prompt(prompt: str) -> None:
    """Raise ValueError for a prompt without a word, or one that is not UTF-8 text."""
    if not prompt.strip():
        raise ValueError("The prompt is empty; give one with --prompt or on standard input.")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"The prompt is not UTF-8 text ({error.reason}); convert it first.") from None


def standard_input() -> str:
    """Return the text on standard input without its last newline, which `echo` and editors add.

    Raises:
        ValueError: if it is not text, or is closed.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise ValueError("Standard input is closed; give a prompt with --prompt.")
    if sys.stdin.isatty():
        errors.print("Reading the prompt from standard input; end it with Ctrl-D.", highlight=False)
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"Standard input is not {error.encoding} text ({error.reason}); convert it first.") from None
    return text.removesuffix("\n").removesuffix("\r")


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, chat: bool) -> torch.Tensor:
    """Return a prompt as token ids, int64 `[1, T]`, in the model's chat format if `chat`.

    Raises:
        ValueError: for an empty prompt, one without a token, or if the tokenizer has no chat format.
    """
    check_prompt(prompt)
    if chat and not tokenizer.chat_template:
        raise ValueError("This tokenizer has no chat template; leave --chat out.")
    if chat:
        messages = [{"role": "user", "content": prompt}]
        encoded = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    else:
        encoded = tokenizer(prompt, return_tensors="pt")
    ids = encoded["input_ids"]
    if ids.shape[-1] == 0:
        raise ValueError(f"The prompt {prompt!r} has no token for this tokenizer; give another one.")
    return ids.long()


def check_image(model: str, image: Path) -> None:
    """Raise ConfigError unless the model takes images and the file is one."""
    if not takes_images(load_config(model)):
        raise ConfigError(f"{model} takes no images; leave out --image, or name a model for images and text.")
    _read_image(image)


def _read_image(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(f"--image is {str(path)!r}, which is no file.")
    try:
        return load_image(str(path))
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(f"--image {str(path)!r} cannot be read as an image: {error}") from error


def image_prompt(model: str, prompt: str, image: Path, chat: bool) -> dict[str, torch.Tensor]:
    """Return a prompt behind an image as keyword arguments of generate.

    Args:
        model: Hub id or directory; its processor is loaded.
        prompt: the text.
        image: an image file.
        chat: whether to use the model's chat format.

    Raises:
        ValueError: for an empty prompt, or if the processor has no chat format or no token for images.
    """
    check_prompt(prompt)
    processor, picture = AutoProcessor.from_pretrained(model), _read_image(image)
    if chat:
        if not getattr(processor, "chat_template", None):
            raise ValueError("This processor has no chat template; leave --chat out.")
        content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
        encoded = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_tensors="pt",
            return_dict=True,
        )
    else:
        token = getattr(processor, "boi_token", None) or getattr(processor, "image_token", None)
        if not isinstance(token, str):
            raise ValueError(f"{type(processor).__name__} does not say where an image stands in a prompt; use --chat.")
        encoded = processor(text=f"{token}{prompt}", images=picture, return_tensors="pt")
    return dict(encoded)
