# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer generate`: stream text from a model whose cache is vector-quantized."""

from __future__ import annotations

import sys
from typing import Annotated

import torch
import typer
from transformers import PreTrainedTokenizerBase, TextStreamer

from ..integration.compat import returned_cache
from .console import errors, size
from .loading import check_before_loading, check_codebook, load_tokenizer, load_weights
from .options import (
    CodebookName,
    Device,
    Dtype,
    KeyBits,
    Model,
    OpsBackend,
    ResidualLength,
    Revision,
    SinkChoice,
    SinkLength,
    Subfolder,
    Trust,
    ValueBits,
    cache_options,
    finite_value,
)


def check_prompt(prompt: str) -> None:
    """Raise ValueError for a prompt without a word."""
    if not prompt.strip():
        raise ValueError("The prompt is empty; give one with --prompt or on standard input.")


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


def generate(
    model: Model,
    codebook: CodebookName = "auto",
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The prompt; default standard input.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate, at most.")] = 200,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat format.")] = False,
    temperature: Annotated[
        float, typer.Option(help="Of sampling; 0 takes the likeliest token each time.", parser=finite_value)
    ] = 0.0,
    static: Annotated[
        bool, typer.Option("--static", help="Allocate the cache once and compile the decode step (for a GPU).")
    ] = False,
    revision: Revision = None,
    subfolder: Subfolder = None,
    trust: Trust = None,
    key_bits: KeyBits = None,
    value_bits: ValueBits = None,
    residual_length: ResidualLength = None,
    sink_length: SinkLength = None,
    sink_choice: SinkChoice = None,
    ops_backend: OpsBackend = "auto",
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Generate text with a vector-quantized cache; it streams to standard output."""
    options = cache_options(
        codebook,
        revision=revision,
        subfolder=subfolder,
        trust=trust,
        key_bits=key_bits,
        value_bits=value_bits,
        residual_length=residual_length,
        sink_length=sink_length,
        sink_choice=sink_choice,
        static=static,
        ops_backend=ops_backend,
    )
    if prompt is not None:
        check_prompt(prompt)
    check_codebook(codebook, revision, subfolder)
    check_before_loading(model, codebook, options, dtype, device)
    tokenizer = load_tokenizer(model)
    ids = prompt_ids(tokenizer, standard_input() if prompt is None else prompt, chat)
    loaded = load_weights(model, dtype, device)
    ids = ids.to(loaded.device)
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    result = loaded.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        cache_implementation="vecinfer",
        cache_config={"codebook": codebook, **options},
        streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
        return_dict_in_generate=True,
        **sampling,
    )
    cache = returned_cache(result)
    errors.print(
        f"{result.sequences.shape[1] - ids.shape[1]} tokens; cache of {int(cache.get_seq_length())} tokens: "
        f"{size(cache.nbytes)}, stock {size(cache.stock_nbytes())}",
        highlight=False,
    )
