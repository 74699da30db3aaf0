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
from .loading import (
    CodebookName,
    Device,
    Dtype,
    Model,
    OpsBackend,
    ResidualLength,
    Revision,
    SinkLength,
    cache_options,
    load_model,
)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, chat: bool) -> torch.Tensor:
    """Return a prompt as token ids `[1, T]`, in the model's chat format if `chat`.

    Raises:
        ValueError: for an empty prompt, or if the tokenizer has no chat format.
    """
    if not prompt.strip():
        raise ValueError("The prompt is empty; give one with --prompt or on standard input.")
    if not chat:
        return tokenizer(prompt, return_tensors="pt")["input_ids"]
    if not tokenizer.chat_template:
        raise ValueError("This tokenizer has no chat template; leave --chat out.")
    messages = [{"role": "user", "content": prompt}]
    encoded = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    return encoded["input_ids"]


def generate(
    model: Model,
    codebook: CodebookName,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The prompt; default standard input.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate, at most.")] = 200,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat format.")] = False,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    revision: Revision = None,
    residual_length: ResidualLength = None,
    sink_length: SinkLength = None,
    ops_backend: OpsBackend = "auto",
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Generate text with a vector-quantized cache; it streams to standard output."""
    prompt = sys.stdin.read() if prompt is None else prompt
    loaded, tokenizer = load_model(model, dtype, device)
    ids = prompt_ids(tokenizer, prompt, chat).to(loaded.device)
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    result = loaded.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        cache_implementation="vecinfer",
        cache_config={"codebook": codebook, **cache_options(revision, residual_length, sink_length, ops_backend)},
        streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
        return_dict_in_generate=True,
        **sampling,
    )
    cache = returned_cache(result)
    errors.print(
        f"{result.sequences.shape[1] - ids.shape[1]} tokens; cache of {cache.get_seq_length()} tokens: "
        f"{size(cache.nbytes)}, stock {size(cache.stock_nbytes())}",
        highlight=False,
    )
