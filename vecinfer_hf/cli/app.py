# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The command `vecinfer`: which sub-commands there are and how a failure is told. Each command has its own module."""

from __future__ import annotations

import os
import sys

import typer

from . import bench, calibrate, convert, doctor, evaluate, generate, hub, inspect, plan
from .console import errors


app = typer.Typer(
    name="vecinfer",
    help="Vector-quantized KV caches for Hugging Face transformers.",
    no_args_is_help=True,
    add_completion=False,
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
app.command()(plan.plan)
app.command()(bench.bench)
app.command()(doctor.doctor)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 on success, 2 on bad input (with one line that says what is wrong).

    Args:
        arguments: the words after `vecinfer`; default those of the process. `VECINFER_TRACEBACK=1` in the environment
            shows where an error came from.
    """
    run(app, arguments)


def run(command: typer.Typer, arguments: list[str] | None = None) -> None:
    """Run a Typer application and exit as `main` does."""
    try:
        command(args=arguments)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("VECINFER_TRACEBACK"):
            raise
        # Some libraries explain at length over several lines.
        errors.print(f"{command.info.name}: {' '.join(str(error).split())}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
