# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The built kernel, and what its tests need: a seed, markers, a device."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
import torch


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config):
    config.addinivalue_line("markers", "kernels_ci: the subset that kernel-builder's CI runs, under a minute")
    config.addinivalue_line("markers", "gpu: needs a CUDA device; skipped where there is none")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def variants(folder: str) -> list[Path]:
    """Return the variants built under `folder`."""
    return sorted((ROOT / folder).glob("torch-*/metadata.json"))


def load(folder: str = "build"):
    """Load a build with the kernels library, or as that library does where it is not installed."""
    try:
        from kernels import get_local_kernel
    except ImportError:
        found = variants(folder)
        if not found:
            return None
        variant = found[0].parent
        name = json.loads(found[0].read_text())["id"]
        spec = importlib.util.spec_from_file_location(name, variant / "__init__.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module
    repo = os.environ.get("VECINFER_KERNEL_PATH") if folder == "build" else None
    path = Path(repo) if repo else ROOT / folder
    if not repo and not variants(folder):
        return None
    if not torch.cuda.is_available():
        # Without CUDA no variant matches; a path to the variant itself is taken as it is.
        path = variants(folder)[0].parent if not repo else path
    return get_local_kernel(path)


@pytest.fixture(scope="session")
def kernel():
    module = load()
    if module is None:
        pytest.skip("the kernel is not built: run build_local.py")
    return module


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
