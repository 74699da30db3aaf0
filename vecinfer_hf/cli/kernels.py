# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer kernels build | pull | list | remove`: compiled operators for this machine, in the user's cache."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from ..errors import KernelBuildError
from ..kernel_build.build import BuildPlan, build, default_backends, plan_build
from ..kernel_build.sources import BACKENDS
from ..kernel_build.store import StoredKernels, remove, store_root, stored_kernels
from ..ops.kernel_loader import forget_search, load_stored
from ..ops.kernel_pull import pull
from .console import errors, output, print_json, print_table, progress_bar, size
from .options import AsJson, text_value


app = typer.Typer(help="Build, pull, list and remove the compiled operators of this machine.", no_args_is_help=True)


def _say(text: str) -> None:
    errors.print(text, markup=False, highlight=False, soft_wrap=True)


def _wait() -> None:
    _say("vecinfer: waiting for another process that writes to the cache of kernels")


def _backend(value: str) -> str:
    if value not in BACKENDS:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(BACKENDS)}.")
    return value


@app.command("build")
def build_here(
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="cuda or cpu; repeatable. Default: what this machine can run.", parser=_backend, metavar="BACKEND"
        ),
    ] = None,
    arch: Annotated[
        list[str] | None,
        typer.Option(
            help="GPU architecture such as 9.0a or 8.0+PTX; repeatable. Default: that of the GPUs here.",
            parser=text_value,
            metavar="ARCH",
        ),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Compilers at a time; default one for each core.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Compile again what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compile the kernels that come with the package for this machine, once; `generate` then uses them.

    Needs g++ and, for a GPU, nvcc. Exit code 1 if a compiler fails; its log is kept.
    """
    wanted = backend or (["cuda"] if arch else default_backends())
    if not wanted:
        raise KernelBuildError("torch finds no CUDA device here, and the kernels are for CUDA; --arch names a GPU.")
    if arch and "cuda" not in wanted:
        raise KernelBuildError("--arch has an effect only with --backend cuda; leave it out.")
    plans = [plan_build(name, (arch or ()) if name == "cuda" else ()) for name in dict.fromkeys(wanted)]
    rows = []
    for plan in plans:
        entry, fresh = _build(plan, jobs, force)
        rows.append(_row(entry))
        if not as_json:
            _tell("Built" if fresh else "Already built", entry)
    if as_json:
        print_json(rows)


def _build(plan: BuildPlan, jobs: int | None, force: bool) -> tuple[StoredKernels, bool]:
    what = " ".join([plan.backend, *plan.archs])
    try:
        with progress_bar(f"compiling for {what}", plan.steps) as advance:
            return build(plan, jobs=jobs, force=force, done=lambda unit, said: advance(1), wait=_wait)
    except KernelBuildError as error:
        if not error.tail:
            raise
        for line in error.tail:
            _say(line)
        _say(f"vecinfer: {error}")
        raise typer.Exit(1) from None


@app.command("pull")
def pull_published(
    pin: Annotated[
        str,
        typer.Argument(help="OWNER/NAME@COMMIT of a kernel repository on the Hub.", parser=text_value, metavar="PIN"),
    ],
    as_json: AsJson = False,
) -> None:
    """Take a published build by its commit. What is named here is trusted: kernels are code that runs."""
    entry, fresh = pull(pin, _wait)
    if as_json:
        print_json(_row(entry))
    else:
        _tell("Pulled" if fresh else "Already pulled", entry)


@app.command("list")
def list_kernels(as_json: AsJson = False) -> None:
    """List what was built or pulled here, the newest first, and why some are not used."""
    rows = [_row(entry) for entry in stored_kernels()]
    if as_json:
        print_json({"directory": str(store_root()), "kernels": rows})
    elif not rows:
        output.print(f"None in {store_root()}.", markup=False, highlight=False, soft_wrap=True)
    else:
        cells = [(row["name"], row["written"], size(row["nbytes"]), row["reason"] or "loads") for row in rows]
        print_table(str(store_root()), ("name", "written", "size", "state"), cells)


@app.command("remove")
def remove_kernels(
    name: Annotated[str, typer.Argument(help="Name in the list.", parser=text_value, metavar="NAME")],
    as_json: AsJson = False,
) -> None:
    """Remove one; processes that use it go on."""
    entry = remove(name)
    forget_search()
    if as_json:
        print_json({"removed": str(entry.directory)})
    else:
        output.print(f"Removed {entry.directory}", markup=False, highlight=False, soft_wrap=True)


def _tell(what: str, entry: StoredKernels) -> None:
    """Print where kernels lie and whether they load here."""
    reason = _reason(entry)
    output.print(f"{what}: {entry.directory}", markup=False, highlight=False, soft_wrap=True)
    output.print(reason or "They load here.", markup=False, highlight=False, soft_wrap=True)
    forget_search()


def _reason(entry: StoredKernels) -> str:
    """Return why kernels do not load here; empty if they do."""
    try:
        load_stored(entry)
    except Exception as error:
        return f"They do not load here: {' '.join(str(error).split())}"
    return ""


def _row(entry: StoredKernels) -> dict[str, Any]:
    return {
        "name": entry.name,
        "directory": str(entry.directory),
        "backend": entry.backend,
        "source": entry.source,
        "pulled": entry.pulled,
        "written": time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.time)),
        "nbytes": entry.nbytes,
        "reason": _reason(entry),
    }
