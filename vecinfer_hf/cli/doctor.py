# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer doctor`: what is installed, which kernels load here and, if none, why."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch
import typer

from ..codebook.shipped import shipped_names
from ..version import __version__
from .console import output, print_json, print_table
from .options import AsJson


PACKAGES = ("torch", "transformers", "kernels", "huggingface-hub", "accelerate", "safetensors")


def examine() -> dict[str, Any]:
    """Return versions, devices, kernel candidates with the reason each was passed over, and the hooks' self-check."""
    from ..integration.registration import self_check
    from ..ops.kernel_loader import kernel_candidates, load_kernels

    return {
        "vecinfer-hf": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"],
        "kernels_loaded": load_kernels() is not None,
        "kernel_candidates": [
            {"source": candidate.source, "reason": candidate.reason} for candidate in kernel_candidates()
        ],
        "self_check": self_check(),
        "shipped_codebooks": shipped_names(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def doctor(as_json: AsJson = False) -> None:
    """Say which kernels load here and, if none, why; and what versions are installed.

    Exit code 1 if transformers lacks one of the package's hooks.
    """
    found = examine()
    if as_json:
        print_json(found)
    else:
        print_report(found)
    if found["self_check"]:
        raise typer.Exit(1)


def print_report(found: dict[str, Any]) -> None:
    """Print what `examine` returned."""
    found = dict(found)
    candidates, problems = found.pop("kernel_candidates"), found.pop("self_check")
    print_table(
        "Environment",
        ("", ""),
        [(name, ", ".join(value) if isinstance(value, list) else str(value)) for name, value in found.items()],
    )
    output.print("Compiled kernels, in the order they are looked for:")
    for candidate in candidates:
        reason = " ".join((candidate["reason"] or "loads").split())
        output.print(f"- {candidate['source']}: {reason}", markup=False, highlight=False, soft_wrap=True)
    output.print("Hooks into transformers: " + ("; ".join(problems) if problems else "all in place"), markup=False)
