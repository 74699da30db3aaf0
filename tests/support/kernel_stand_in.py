# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A small kernel in the form of hub_kernels/: two variants that need no compiler, built by the same rules.

Owns the stand-in only; hashing and digesting are the package's.
"""

import json
import shutil
from pathlib import Path


VARIANTS = {"torch-cpu": "cpu", "torch-cuda": "cuda"}
_BUILD_TOML = """[general]
name = "stand-in"
version = 1
edition = 5
license = "Apache-2.0"

[general.hub]
repo-id = "org/stand-in"

[torch]
src = ["torch-ext/binding.cpp"]

[kernel.stand_in]
src = []
"""
_INIT = '''"""A kernel of one operator."""

import torch

from ._ops import add_op_namespace_prefix

ANSWER = {answer}


@torch.library.custom_op(add_op_namespace_prefix("scale"), mutates_args=())
def scale(x: torch.Tensor) -> torch.Tensor:
    return x * ANSWER
'''
_OPS = """def add_op_namespace_prefix(name):
    return "{id}::" + name
"""


def make_kernel(place: Path, answer: int) -> Path:
    """Write the sources of a stand-in whose operator multiplies by `answer`, and build its variants."""
    from vecinfer_hf.kernel_build.sources import digest, source_id

    shutil.rmtree(place, ignore_errors=True)
    (place / "torch-ext" / "stand_in").mkdir(parents=True)
    (place / "build.toml").write_text(_BUILD_TOML)
    (place / "torch-ext" / "binding.cpp").write_text(f"// answer {answer}\n")
    (place / "torch-ext" / "stand_in" / "__init__.py").write_text(_INIT.format(answer=answer))
    for name, backend in VARIANTS.items():
        variant = place / "build" / name
        shutil.copytree(place / "torch-ext" / "stand_in", variant)
        build = f"_stand_in_{backend}_{source_id(place, backend)}"
        (variant / "_ops.py").write_text(_OPS.format(id=build))
        (variant / f"{build}.txt").write_text("stands for the library")
        metadata = {"name": "stand-in", "id": build, "version": 1, "license": "Apache-2.0", "python-depends": []}
        metadata["backend"] = {"type": backend}
        metadata["digest"] = digest(variant)
        (variant / "metadata.json").write_text(json.dumps(metadata))
    return place
