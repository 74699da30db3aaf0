# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The built kernel, and what its tests need: a seed, markers, a device.

The backend under test is "cuda" where there is a device, else "cpu"; VECINFER_KERNEL_BACKEND names one.
"""

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

from cases import DEVICE, ON_CPU  # noqa: E402


CUDA_ONLY = {
    "test_cuda_graph_with_growing_lengths": "CUDA graphs",
    "test_graph_with_growing_lengths": "CUDA graphs",
    "test_append_prints_its_table": "times CUDA kernels",
    "test_no_synchronization": "a CPU does not synchronize",
    "test_full_transforms_of_few_and_many_rows": "counts multiprocessors",
    "test_what_is_not_there_yet_is_refused_by_name": "a CPU does these; test_cpu.py",
    "test_refusals": "a CPU refuses other things; test_cpu.py",
}
"""Tests of what only the CUDA operators have."""
TOO_SLOW_ON_A_CPU = {"test_large", "test_large_and_far", "test_many_tokens_at_once_or_in_pieces"}
"""Minutes on a CPU, and about blocks of a GPU."""


def pytest_configure(config):
    config.addinivalue_line("markers", "kernels_ci: the subset that kernel-builder's CI runs, under a minute")
    config.addinivalue_line("markers", "gpu: calls the operators, on a GPU or on a CPU; skipped without either")
    config.addinivalue_line("markers", "cpu: about the CPU backend only")


def pytest_collection_modifyitems(items):
    for item in items:
        name, skip = getattr(item, "originalname", item.name), None
        if item.get_closest_marker("cpu") and not ON_CPU:
            skip = "about the CPU backend"
        elif item.get_closest_marker("gpu") and ON_CPU:
            skip = CUDA_ONLY.get(name) or ("large, for GPUs" if name in TOO_SLOW_ON_A_CPU else None)
        elif item.get_closest_marker("gpu") and not torch.cuda.is_available():
            skip = "no CUDA device"
        if skip:
            item.add_marker(pytest.mark.skip(reason=skip))


def variants(folder: str, backend: str = DEVICE) -> list[Path]:
    """Return the variants built under `folder` for a backend, "cuda" or "cpu"."""
    found = sorted((ROOT / folder).glob("torch-*/metadata.json"))
    return [path for path in found if json.loads(path.read_text())["backend"]["type"] == backend]


def load(folder: str = "build", backend: str = DEVICE):
    """Load a build with the kernels library, or as that library does where it is not installed."""
    try:
        from kernels import get_local_kernel
    except ImportError:
        found = variants(folder, backend)
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
    if not repo and not variants(folder, backend):
        return None
    if backend == "cpu":
        return get_local_kernel(path, backend="cpu")
    if not torch.cuda.is_available():
        # Without CUDA no variant matches; a path to the variant itself is taken as it is.
        path = variants(folder, backend)[0].parent if not repo else path
    return get_local_kernel(path)


@pytest.fixture(scope="session")
def kernel():
    module = load()
    if module is None:
        pytest.skip(f"the kernel is not built: run {'build_cpu.py' if ON_CPU else 'build_local.py'}")
    return module


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
