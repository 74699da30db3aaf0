# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer generate`: stream text from a model whose cache is vector-quantized."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import TextStreamer

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
from .prompts import check_image, check_prompt, image_prompt, prompt_ids, standard_input


def generate(
    model: Model,
    codebook: CodebookName = "auto",
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The prompt; default standard input.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate, at most.")] = 200,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat format.")] = False,
    image: Annotated[
        Path | None, typer.Option("--image", help="An image file in front of the prompt, for models that take images.")
    ] = None,
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
    if image is not None:
        check_image(model, image)
    tokenizer = load_tokenizer(model)
    text = standard_input() if prompt is None else prompt
    if image is None:
        ids = prompt_ids(tokenizer, text, chat)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    else:
        inputs = image_prompt(model, text, image, chat)
    loaded = load_weights(model, dtype, device)
    inputs = {name: tensor.to(loaded.device) for name, tensor in inputs.items()}
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    result = loaded.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        cache_implementation="vecinfer",
        cache_config={"codebook": codebook, **options},
        streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
        return_dict_in_generate=True,
        **sampling,
    )
    cache = returned_cache(result)
    new = result.sequences.shape[1] - inputs["input_ids"].shape[1]
    errors.print(
        f"{new} tokens; cache of {int(cache.get_seq_length())} tokens: "
        f"{size(cache.nbytes)}, default cache {size(cache.stock_nbytes())}",
        highlight=False,
    )
