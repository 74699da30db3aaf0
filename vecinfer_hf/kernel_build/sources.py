# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The kernels' sources: where they lie, which files build.toml names for a backend, and the hash that names them."""

from __future__ import annotations

import base64
import hashlib
import platform
from pathlib import Path
from typing import Any

from ..errors import KernelBuildError


try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

BACKENDS = ("cuda", "cpu")


def kernel_sources() -> Path:
    """Return the directory of build.toml: inside an installed package, else in the checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_kernels"
    return installed if (installed / "build.toml").is_file() else package.parent / "hub_kernels" / "vecinfer-attention"


def read_config(root: Path) -> dict[str, Any]:
    """Return build.toml.

    Raises:
        KernelBuildError: if it is not there.
    """
    try:
        return tomllib.loads((root / "build.toml").read_text(encoding="utf-8"))
    except OSError as error:
        raise KernelBuildError(f"{root} holds no sources of kernels ({error}); install vecinfer-hf again.") from None


def source_files(root: Path, backend: str) -> list[Path]:
    """Return every file that build.toml names for a backend.

    Raises:
        KernelBuildError: if there are no kernels for this backend, or a file is missing.
    """
    config = read_config(root)
    if backend not in config["general"].get("backends", [backend]):
        raise KernelBuildError(
            f"There are no kernels for backend {backend!r}, only for {', '.join(config['general']['backends'])}."
        )
    kernels = [kernel for kernel in config["kernel"].values() if kernel.get("backend", backend) == backend]
    names = [*config["torch"]["src"], *(name for kernel in kernels for name in kernel["src"])]
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise KernelBuildError(f"{root / 'build.toml'} names files that do not exist: {', '.join(missing)}.")
    return [root / name for name in names]


def units(files: list[Path]) -> list[Path]:
    """Return the files that are compiled; the others are included by them."""
    return [path for path in files if path.suffix in {".cu", ".cpp"}]


def source_id(root: Path, backend: str) -> str:
    """Return a short hash of all sources of a backend, so that another source never meets this build's namespace."""
    digest = hashlib.sha256()
    for path in sorted([*source_files(root, backend), *(root / "torch-ext").rglob("*.py")]):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def variant_name(config: dict[str, Any], backend: str, cuda: tuple[int, int] | None) -> str:
    """Return the directory name by which the `kernels` library chooses a build: torch, backend, machine and system."""
    torch_version = config["torch"]["stable-abi"][backend].replace(".", "")
    device = "cpu" if cuda is None else f"cu{cuda[0]}{cuda[1]}"
    return f"torch-stable-abi{torch_version}-{device}-{platform.machine()}-{platform.system().lower()}"


def digest(variant: Path) -> dict[str, Any]:
    """Return the digest of a build's files as `kernels` verifies it (metadata.json left out)."""
    files = {}
    for path in sorted(variant.rglob("*")):
        if path.is_file() and path.name != "metadata.json" and "__pycache__" not in path.parts:
            value = hashlib.sha256(path.read_bytes()).digest()
            files[path.relative_to(variant).as_posix()] = base64.b64encode(value).decode()
    return {"algorithm": "sha256", "files": files}
