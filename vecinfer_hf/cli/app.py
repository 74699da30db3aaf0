# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The command `vecinfer`: its sub-commands, and how a failure is told. Each sub-command has its own module."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Annotated

import typer

from ..errors import VecInferError
from ..version import __version__
from . import bench, calibrate, codebooks, convert, doctor, evaluate, generate, hub, inspect, kernels, plan, serve
from .console import errors
from .interruption import INTERRUPTED, SENTENCE


BAD_INPUT, FAILED = 2, 1
"""Exit codes: the input is refused; the work failed, or found nothing."""
_REFUSALS = (VecInferError, ValueError, OSError, ImportError)

app = typer.Typer(
    name="vecinfer",
    help="Vector-quantized KV caches for Hugging Face transformers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(calibrate.calibrate)
app.command()(generate.generate)
app.command()(evaluate.evaluate)
app.command()(inspect.inspect)
app.command()(convert.convert)
app.command()(hub.push)
app.command()(hub.pull)
app.command()(hub.find)
app.add_typer(codebooks.app, name="codebooks")
app.add_typer(kernels.app, name="kernels")
app.command()(plan.plan)
app.command()(bench.bench)
app.command()(doctor.doctor)
app.command(context_settings=serve.PASS_ON)(serve.serve)
app.command(context_settings={**serve.PASS_ON, "help_option_names": []})(serve.chat)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vecinfer {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Vector-quantized KV caches for Hugging Face transformers."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 on success, 2 on bad input, 1 if the work failed, 130 after Ctrl-C.

    Args:
        arguments: the words after `vecinfer`; default those of the process. A failure prints one line.
            `VECINFER_TRACEBACK=1` in the environment shows where it came from.
    """
    run(app, arguments)


def run(command: typer.Typer, arguments: list[str] | None = None) -> None:
    """Run a Typer application and exit as `main` does."""
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal cannot show is printed by its number.
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")
    try:
        command(args=arguments)
    except (KeyboardInterrupt, SystemExit) as end:
        # Typer turns Ctrl-C into an exit code.
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        print(SENTENCE, file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if os.environ.get("VECINFER_TRACEBACK"):
            raise
        refused = isinstance(error, _REFUSALS)
        # Some libraries explain at length over several lines.
        text = " ".join(str(error).split())
        if not refused or not text:
            text = f"{type(error).__name__}: {text or 'no message'} (VECINFER_TRACEBACK=1 shows where)"
        errors.print(f"{command.info.name}: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(BAD_INPUT if refused else FAILED)


if __name__ == "__main__":
    main()
