# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The codebooks that come with the package: where they lie and what they are called."""

from __future__ import annotations

from pathlib import Path

from .files import CONFIG_NAME


def shipped_codebooks() -> Path:
    """Return the directory of the codebooks that come with the package."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "quant_configs"
    return installed if installed.is_dir() else package.parent / "quant_configs"


def shipped_names() -> list[str]:
    """Return the names of the codebooks that come with the package, sorted."""
    root = shipped_codebooks()
    return sorted(path.parent.relative_to(root).as_posix() for path in root.glob(f"*/*/{CONFIG_NAME}"))
