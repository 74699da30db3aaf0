# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""How the commands print: results on standard output, progress and errors on standard error, JSON for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table


output = Console()
errors = Console(stderr=True)


def print_json(data: Any) -> None:
    """Print `data` as JSON and nothing around it."""
    print(json.dumps(data, indent=2))


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print rows of plain text as a table: the first column to the left, the others to the right."""
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        table.add_row(*map(escape, row))
    output.print(table)


@contextmanager
def progress_bar(description: str, total: int):
    """Show a progress bar on standard error; the value is a function that takes how many more are done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.advance(task, done)


def counted(number: int, noun: str) -> str:
    """Return `1 window`, `2 windows`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size(nbytes: float) -> str:
    """Return bytes in a unit people read: `1.50 MB` (decimal units)."""
    power = min(int(math.log10(max(nbytes, 1))) // 3, 3)
    return f"{nbytes / 1000**power:.{2 if power else 0}f} {('bytes', 'kB', 'MB', 'GB')[power]}"
