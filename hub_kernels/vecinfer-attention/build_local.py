# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Build one variant of this kernel with nvcc alone: no GPU, no CUDA build of torch, no Nix.

    python build_local.py                     # build/torch-stable-abi211-cu130-x86_64-linux, sm_80 + PTX and sm_90a
    python build_local.py --archs 9.0a        # one architecture, for development

`kernels.get_local_kernel(Path("hub_kernels/vecinfer-attention"))` loads the result on torch 2.11 and newer. Releases
are built with kernel-builder instead, whose containers have an older glibc; build.toml is what both read.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

import torch


ROOT = Path(__file__).resolve().parent
DEFAULT_ARCHS = ("8.0+PTX", "9.0a")

# kernel-builder writes its own copy of this header and of _ops.py; neither is committed.
REGISTRATION_H = """#pragma once
#include <Python.h>
#define VECINFER_CONCAT_(a, b) a##b
#define VECINFER_CONCAT(a, b) VECINFER_CONCAT_(a, b)
#define VECINFER_STRING_(a) #a
#define VECINFER_STRING(a) VECINFER_STRING_(a)
#define STABLE_TORCH_LIBRARY_EXPAND(name, module) STABLE_TORCH_LIBRARY(name, module)
#define STABLE_TORCH_LIBRARY_IMPL_EXPAND(name, key, module) STABLE_TORCH_LIBRARY_IMPL(name, key, module)
#define REGISTER_EXTENSION(name)                                                                     \\
  PyMODINIT_FUNC VECINFER_CONCAT(PyInit_, name)(void) {                                              \\
    static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, VECINFER_STRING(name), nullptr, 0};   \\
    return PyModule_Create(&module);                                                                 \\
  }
"""

OPS_PY = '''"""The operators of this build under their unique namespace."""

import torch

from . import {name}  # noqa: F401


ops = torch.ops.{name}


def add_op_namespace_prefix(op_name: str) -> str:
    """Return the operator's qualified name."""
    return f"{name}::{{op_name}}"
'''


def sources(config: dict, backend: str = "cuda") -> list[Path]:
    """Return every file that build.toml names for a backend, checked to exist."""
    kernels = [kernel for kernel in config["kernel"].values() if kernel.get("backend", backend) == backend]
    names = [*config["torch"]["src"], *(name for kernel in kernels for name in kernel["src"])]
    missing = [name for name in names if not (ROOT / name).is_file()]
    if missing:
        raise SystemExit(f"build.toml names files that do not exist: {', '.join(missing)}")
    return [ROOT / name for name in names]


def build_id(files: list[Path]) -> str:
    """Return a short hash of all sources, so that another source never meets this build's namespace."""
    digest = hashlib.sha256()
    for path in sorted([*files, *(ROOT / "torch-ext").rglob("*.py")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def cuda_version(nvcc: str) -> tuple[int, int]:
    """Return nvcc's release, e.g. (13, 0)."""
    text = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    major, minor = re.search(r"release (\d+)\.(\d+)", text).groups()
    return int(major), int(minor)


def gencode(archs: list[str]) -> list[str]:
    """Return nvcc's flags for architectures written as in build.toml, e.g. "9.0a" or "8.0+PTX"."""
    flags = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        codes = [f"sm_{number}"] + ([f"compute_{number}"] if arch.endswith("+PTX") else [])
        flags.append(f"-gencode=arch=compute_{number},code=[{','.join(codes)}]")
    return flags


def newest(paths: list[Path]) -> float:
    """Return the latest modification time."""
    return max(path.stat().st_mtime for path in paths)


def compile_all(files: list[Path], flags: list[str], nvcc: str, work: Path, jobs: int, ops_name: str) -> list[Path]:
    """Compile what changed and return the object files."""
    headers = newest([path for path in files if path.suffix in {".h", ".cuh"}] + [Path(__file__)])
    # Objects of other flags are never reused.
    objects_dir = work / hashlib.sha256(" ".join(flags).encode()).hexdigest()[:8]
    objects_dir.mkdir(parents=True, exist_ok=True)
    commands, objects = [], []
    for source in (path for path in files if path.suffix in {".cu", ".cpp"}):
        name = source.relative_to(ROOT).as_posix().replace("/", "_")
        binding = source.suffix == ".cpp"
        # Only the binding knows the namespace.
        target = objects_dir / f"{name}{'.' + ops_name if binding else ''}.o"
        objects.append(target)
        if target.exists() and target.stat().st_mtime > max(source.stat().st_mtime, headers):
            continue
        extra = [f"-DTORCH_EXTENSION_NAME={ops_name}"] if binding else []
        commands.append([nvcc, *flags, *extra, "-c", str(source), "-o", str(target)])
    with ThreadPoolExecutor(jobs) as pool:
        for command, done in zip(commands, pool.map(run, commands), strict=True):
            print(f"compiled {Path(command[-3]).relative_to(ROOT)}", flush=True)
            if done.strip():
                print(done, file=sys.stderr)
    return objects


def run(command: list[str]) -> str:
    """Run a command and return its output; end the build with the output if it fails."""
    result = subprocess.run(command, capture_output=True, text=True)
    output = result.stdout + result.stderr
    if result.returncode:
        raise SystemExit(f"{' '.join(command)}\n{output}")
    return output


def digest(variant: Path) -> dict:
    """Return the digest of a variant's files as `kernels` verifies it (metadata.json left out)."""
    files = {}
    for path in sorted(variant.rglob("*")):
        if path.is_file() and path.name != "metadata.json":
            value = hashlib.sha256(path.read_bytes()).digest()
            files[path.relative_to(variant).as_posix()] = base64.b64encode(value).decode()
    return {"algorithm": "sha256", "files": files}


def main(argv: list[str] | None = None) -> Path:
    """Build and return the variant's directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", nargs="+", default=list(DEFAULT_ARCHS), help="e.g. 9.0a or 8.0+PTX")
    parser.add_argument("--jobs", type=int, default=2, help="compiler processes (default 2)")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="directory of the variants")
    parser.add_argument("--nvcc", default=os.environ.get("NVCC", "nvcc"))
    parser.add_argument("--id", help="name of this build; default is a hash of the sources")
    parser.add_argument("--lineinfo", action="store_true", help="source lines for profilers")
    options = parser.parse_args(argv)

    config = tomllib.loads((ROOT / "build.toml").read_text())
    name, python_name = config["general"]["name"], config["general"]["name"].replace("-", "_")
    files = sources(config)
    ops_name = f"_{python_name}_cuda_{options.id or build_id(files)}"
    cuda = cuda_version(options.nvcc)
    torch_version = config["torch"]["stable-abi"]["cuda"]
    torch_major, torch_minor = (int(part) for part in torch_version.split("."))
    variant_name = f"torch-stable-abi{torch_major}{torch_minor}-cu{cuda[0]}{cuda[1]}-{platform.machine()}-linux"

    work = ROOT / "_build"
    work.mkdir(exist_ok=True)
    registration = work / "registration.h"
    if not registration.exists() or registration.read_text() != REGISTRATION_H:
        registration.write_text(REGISTRATION_H)
    torch_include = Path(torch.__file__).parent / "include"
    flags = [
        "-O3",
        "-std=c++20",
        "-DCUDA_KERNEL",
        "-DUSE_CUDA",
        f"-DTORCH_TARGET_VERSION=0x{torch_major:02x}{torch_minor:02x}000000000000",
        "-DPy_LIMITED_API=0x03090000",
        f"-I{torch_include}",
        f"-I{sysconfig.get_paths()['include']}",
        f"-I{work}",
        f"-I{ROOT}",
        "-Xcompiler=-fPIC,-fvisibility=hidden,-fno-gnu-unique",
        "--expt-relaxed-constexpr",
        # Warnings of torch's headers, not of ours.
        "--diag-suppress=177,20012",
        *(["-lineinfo"] if options.lineinfo else []),
        *gencode(options.archs),
    ]
    objects = compile_all(files, flags, options.nvcc, work, options.jobs, ops_name)

    variant = options.output / variant_name
    shutil.rmtree(variant, ignore_errors=True)
    shutil.copytree(ROOT / "torch-ext" / python_name, variant, ignore=shutil.ignore_patterns("__pycache__"))
    library = variant / f"{ops_name}.abi3.so"
    # Only Python's entry point is exported. The CUDA runtime is linked statically: it must not meet the one that torch
    # brings along. libtorch.so stands for whatever libraries the installed torch consists of.
    script = work / "exports.map"
    script.write_text("{ global: PyInit_*; local: *; };\n")
    link = ["-shared", "-cudart=static", f"-Xlinker=--version-script={script}", "-Xlinker=--strip-debug"]
    libtorch = f"-Xlinker=--no-as-needed,-L{torch_include.parent / 'lib'},-ltorch,--as-needed"
    run([options.nvcc, *link, libtorch, *map(str, objects), "-o", str(library)])
    (variant / "_ops.py").write_text(OPS_PY.format(name=ops_name))
    metadata = {
        "name": name,
        "id": ops_name,
        "version": config["general"]["version"],
        "license": config["general"]["license"],
        "python-depends": [],
        "backend": {"type": "cuda", "archs": sorted(options.archs)},
    }
    metadata["digest"] = digest(variant)
    (variant / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
    print(variant)
    return variant


if __name__ == "__main__":
    main()
