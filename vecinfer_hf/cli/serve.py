# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer serve` and `vecinfer chat`: transformers' own server and chat, with a cache of codes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from ..errors import ConfigError, UnsupportedCallError
from ..integration.continuous_batching import TESTED, why_unsupported
from ..integration.serve import coded_server
from .loading import check_codebook
from .options import (
    CodebookName,
    KeyBits,
    Model,
    OpsBackend,
    Revision,
    SinkChoice,
    SinkLength,
    Subfolder,
    Trust,
    ValueBits,
    cache_options,
    text_value,
)


PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Of a command that hands the rest of its line to transformers."""


def serve(
    context: typer.Context,
    model: Model,
    codebook: CodebookName = "auto",
    revision: Revision = None,
    subfolder: Subfolder = None,
    trust: Trust = None,
    key_bits: KeyBits = None,
    value_bits: ValueBits = None,
    sink_length: SinkLength = None,
    sink_choice: SinkChoice = None,
    ops_backend: OpsBackend = "auto",
    prefix: Annotated[
        list[str] | None,
        typer.Option(
            help="File of saved pages (VecInferManager.save_prefix) that requests may begin with; repeatable.",
            parser=text_value,
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Serve a model over HTTP as OpenAI's API does, many requests at once, with a cache of codes.

    Options that are not listed here are those of `transformers serve`: --port, --host, --device, --dtype,
    --cb-num-blocks, --cb-block-size (tokens of a page), --cb-max-memory-percent and more. --compile serves one request
    at a time with a compiled decode step over a static cache of codes. `/health` tells the cache and its pages.
    """
    rest = list(context.args)
    compiles = "--compile" in rest
    for name in ("--attn-implementation", "--no-continuous-batching"):
        if any(word.split("=")[0] == name for word in rest):
            raise ConfigError(f"{name} has no effect with codes, which have an attention of their own; leave it out.")
    options = cache_options(
        codebook,
        revision=revision,
        subfolder=subfolder,
        trust=trust,
        key_bits=key_bits,
        value_bits=value_bits,
        sink_length=sink_length,
        sink_choice=sink_choice,
        static=compiles,
        ops_backend=ops_backend,
    )
    reason = why_unsupported()
    if reason is not None:
        raise UnsupportedCallError(f"{reason}. Install transformers {TESTED} to serve.")
    check_codebook(codebook, revision, subfolder)
    from ..integration.paged_manager import PAGE_TOKENS, PREFIXES

    for name in prefix or ():
        if not Path(name).is_file():
            raise ConfigError(f"--prefix {name!r} is no file; give one that VecInferManager.save_prefix wrote.")
    PREFIXES[:] = [Path(name) for name in prefix or ()]

    names_size = any(word.split("=")[0] == "--cb-block-size" for word in rest)
    if not compiles and "--continuous-batching" not in rest:
        rest.append("--continuous-batching")
    log = logging.getLogger("vecinfer_hf")
    log.setLevel(logging.INFO)
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
    with coded_server(codebook, options, None if names_size else PAGE_TOKENS):
        from transformers.cli.serve import Serve

        _run(Serve, "vecinfer serve", [model, *rest])


def chat(context: typer.Context) -> None:
    """Chat with a server, `vecinfer serve` or another one; the line is that of `transformers chat`: MODEL [URL]."""
    from transformers.cli.chat import Chat

    _run(Chat, "vecinfer chat", list(context.args))


def _run(command: type, name: str, arguments: list[str]) -> None:
    """Run a command of transformers with the words of a line."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    get_command(app).main(args=arguments, prog_name=name, standalone_mode=False)
