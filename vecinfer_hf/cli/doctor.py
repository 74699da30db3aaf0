# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer doctor`: what is installed, which kernels load here and, if none, why; what a model's cache would hold."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch
import typer

from ..codebook.shipped import shipped_names
from ..model_info import supported
from ..version import __version__
from .console import output, print_json, print_table
from .loading import load_config
from .options import AsJson, OptionalModel


PACKAGES = ("torch", "transformers", "kernels", "huggingface-hub", "accelerate", "safetensors")


def examine() -> dict[str, Any]:
    """Return versions, devices, kernel candidates with the reason each was passed over, and the hooks' self-check.

    Candidates are those for the devices torch was built for, then, if that is CUDA, those for the CPU.
    """
    from ..integration.registration import self_check
    from ..ops.kernel_loader import kernel_candidates, load_kernels

    return {
        "vecinfer-hf": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"],
        "kernels_loaded": load_kernels() is not None,
        "cpu_kernels_loaded": load_kernels("cpu") is not None,
        "kernel_candidates": [
            {"device": device, "source": candidate.source, "reason": candidate.reason}
            for device in (("cuda", "cpu") if torch.version.cuda else ("cpu",))
            for candidate in kernel_candidates(device)
        ],
        "self_check": self_check(),
        "shipped_codebooks": shipped_names(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def doctor(model: OptionalModel = None, as_json: AsJson = False) -> None:
    """Say which kernels load here and, if none, why; and what versions are installed.

    With a model: which of its layers would hold codes, which not and why, from its config alone. Exit code 1 if none
    would, or if transformers lacks one of the package's hooks.
    """
    if model is not None:
        examine_model(model, as_json)
        return
    found = examine()
    if as_json:
        print_json(found)
    else:
        print_report(found)
    if found["self_check"]:
        raise typer.Exit(1)


def examine_model(name: str, as_json: bool) -> None:
    """Print what a cache of codes would hold for a model; exit code 1 if no codes."""
    found = supported(load_config(name))
    if as_json:
        heads = dict(found.heads)
        layers = [
            {**use._asdict(), "heads": heads[use.index]._asdict() if use.index in heads else None}
            for use in found.layers
        ]
        print_json({"model_type": found.model_type, "reason": found.reason, "note": found.note, "layers": layers})
    else:
        output.print(str(found), markup=False, highlight=False, soft_wrap=True)
    if not found:
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
        output.print(
            f"- {candidate['device']}, {candidate['source']}: {reason}", markup=False, highlight=False, soft_wrap=True
        )
    output.print("Hooks into transformers: " + ("; ".join(problems) if problems else "all in place"), markup=False)
