# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The compilers: nvcc of a CUDA toolkit or of NVIDIA's pip packages, a C++ compiler, and the flags of each."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import KernelBuildError


PORTABLE_ARCH = "8.0+PTX"
"""Runs on every device that the kernels support, compiled by the driver at first use."""
OLDEST = (8, 0)
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


class Compiler(NamedTuple):
    """A compiler that runs here.

    Args:
        command: the words that start it.
        cuda: nvcc's release, e.g. (13, 0); None for a C++ compiler.
        libraries: directory of the CUDA runtime where nvcc does not know it.
    """

    command: tuple[str, ...]
    cuda: tuple[int, int] | None = None
    libraries: Path | None = None


def find_compiler(backend: str) -> Compiler:
    """Return the compiler of a backend, "cuda" or "cpu".

    Raises:
        KernelBuildError: if there is none, or none for torch's CUDA; the message says what to install.
    """
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        raise KernelBuildError(f"{header} does not exist; install Python's headers (python3-dev on Debian).")
    return find_cxx() if backend == "cpu" else find_nvcc(torch.version.cuda)


def find_cxx() -> Compiler:
    """Return CXX, g++ or c++, whichever is there first.

    Raises:
        KernelBuildError: if none is there.
    """
    named = os.environ.get("CXX", "").split()
    for words in (named, ["g++"], ["c++"]):
        if words and shutil.which(words[0]):
            return Compiler(tuple(words))
    raise KernelBuildError("There is no C++ compiler (CXX, g++ or c++); install g++.")


def find_nvcc(torch_cuda: str | None, named: str | None = None) -> Compiler:
    """Return the first nvcc whose major version is that of torch's CUDA.

    Looked for are NVCC, PATH, CUDA_HOME, CUDA_PATH, /usr/local/cuda and NVIDIA's pip packages.

    Args:
        torch_cuda: the version of CUDA that torch was built for, e.g. "13.0"; None takes any.
        named: the one to take, instead of NVCC.

    Raises:
        KernelBuildError: if there is none, or only those of other versions.
    """
    wanted = None if torch_cuda is None else int(torch_cuda.split(".")[0])
    release = torch_cuda or "13.0"
    install = (
        f'install the CUDA toolkit, or `pip install "nvidia-cuda-nvcc=={release}.*" "nvidia-cuda-cccl=={release}.*"`'
    )
    others = []
    for path in _nvcc_paths(named or os.environ.get("NVCC")):
        cuda = _release(path)
        if wanted in (None, cuda[0]):
            if not os.environ.get("NVCC_CCBIN") and not shutil.which("g++"):
                raise KernelBuildError("nvcc needs g++, which is not there; install g++ or name one in NVCC_CCBIN.")
            return Compiler((path,), cuda, _libraries(Path(path)))
        others.append(f"{path} is of CUDA {cuda[0]}.{cuda[1]}")
    if others:
        raise KernelBuildError(f"torch was built for CUDA {torch_cuda}, but {', '.join(others)}; {install}.")
    raise KernelBuildError(f"There is no nvcc (NVCC, PATH, CUDA_HOME or NVIDIA's pip packages); {install}.")


def _nvcc_paths(named: str | None) -> Iterator[str]:
    if named:
        # A name that was given is not passed over.
        yield named
        return
    places = [shutil.which("nvcc")]
    places += [f"{os.environ[name]}/bin/nvcc" for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    places.append("/usr/local/cuda/bin/nvcc")
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        places += [str(path) for path in sorted(Path(folder).glob("*/bin/nvcc"), reverse=True)]
    for place in dict.fromkeys(places):
        if place and os.access(place, os.X_OK):
            yield place


def _release(nvcc: str) -> tuple[int, int]:
    try:
        done = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True)
        major, minor = re.search(r"release (\d+)\.(\d+)", done.stdout).groups()
    except (OSError, subprocess.CalledProcessError, AttributeError) as error:
        raise KernelBuildError(f"{nvcc} does not say its version ({error!r}); name another nvcc in NVCC.") from None
    return int(major), int(minor)


def _libraries(nvcc: Path) -> Path | None:
    """Return the pip packages' directory of libraries, which their nvcc does not look into."""
    root = Path(shutil.which(nvcc) or nvcc).resolve().parents[1]
    library = root / "lib"
    return library if (library / "libcudart_static.a").is_file() and not (root / "lib64").exists() else None


def device_archs(listed: list[str]) -> list[str]:
    """Return the architectures to compile for the GPUs of this machine, as build.toml writes them.

    Args:
        listed: build.toml's architectures, e.g. "8.6" and "9.0a".

    Raises:
        KernelBuildError: if there is no GPU, or one that is too old.
    """
    if not torch.cuda.is_available():
        raise KernelBuildError("torch finds no CUDA device here; name an architecture, e.g. --arch 9.0a.")
    capabilities = sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
    return list(dict.fromkeys(arch_for(capability, listed) for capability in capabilities))


def arch_for(capability: tuple[int, int], listed: list[str]) -> str:
    """Return the architecture whose code serves a device best: its own, else the last of its generation, else PTX."""
    if capability < OLDEST:
        have = ".".join(map(str, capability))
        raise KernelBuildError(f"A GPU here has compute capability {have}; the kernels need 8.0 or newer.")
    numbers = {tuple(int(part) for part in arch.rstrip("af").split(".")): arch for arch in listed}
    if capability in numbers:
        return numbers[capability]
    same = [n for n, arch in numbers.items() if n[0] == capability[0] and n <= capability and not arch.endswith("a")]
    return numbers[max(same)] if same else PORTABLE_ARCH


def check_archs(archs: list[str]) -> None:
    """Raise KernelBuildError for an architecture that is not written like 8.6, 9.0a or 8.0+PTX."""
    for arch in archs:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", arch):
            raise KernelBuildError(f"Architecture {arch!r} is not written like 8.6, 9.0a or 8.0+PTX.")


def gencode(archs: list[str]) -> list[str]:
    """Return nvcc's flags for architectures written as in build.toml."""
    flags = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        codes = [f"sm_{number}"] + ([f"compute_{number}"] if arch.endswith("+PTX") else [])
        flags.append(f"-gencode=arch=compute_{number},code=[{','.join(codes)}]")
    return flags


def compile_flags(backend: str, torch_version: str, archs: list[str], extra: list[str]) -> list[str]:
    """Return the flags of every unit.

    Args:
        backend: "cuda" or "cpu".
        torch_version: the least torch that the build runs on, e.g. "2.11".
        archs: GPU architectures; empty for "cpu".
        extra: further flags.
    """
    major, minor = (int(part) for part in torch_version.split("."))
    places = [str(Path(torch.__file__).parent / "include"), sysconfig.get_paths()["include"]]
    common = [
        "-O3",
        f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000",
        "-DPy_LIMITED_API=0x03090000",
    ]
    if backend == "cpu":
        return [
            *common,
            "-std=c++17",
            "-DNDEBUG",
            "-DCPU_KERNEL",
            "-fPIC",
            "-fvisibility=hidden",
            "-Wall",
            "-Wextra",
            # Vectors wider than the baseline's registers are passed between inlined functions only.
            "-Wno-psabi",
            # g++ 12 finds its own intrinsics uninitialized.
            "-Wno-maybe-uninitialized",
            "-Wno-uninitialized",
            *(f"-isystem{place}" for place in places),
            *extra,
        ]
    return [
        *common,
        "-std=c++20",
        "-DCUDA_KERNEL",
        "-DUSE_CUDA",
        *(f"-I{place}" for place in places),
        "-Xcompiler=-fPIC,-fvisibility=hidden,-fno-gnu-unique",
        "--expt-relaxed-constexpr",
        # Warnings of torch's headers, not of ours.
        "--diag-suppress=177,20012",
        *extra,
        *gencode(archs),
    ]


def link_command(compiler: Compiler, objects: list[Path], exports: Path, library: Path, extra: list[str]) -> list[str]:
    """Return the command that links a library whose only exported symbols are those of a version script.

    The CUDA runtime is linked statically: it must not meet the one that torch brings along. libtorch.so stands for
    whatever libraries the installed torch consists of.
    """
    torch_libraries = Path(torch.__file__).parent / "lib"
    if compiler.cuda is None:
        sanitizers = [flag for flag in extra if flag.startswith("-fsanitize")]
        options = ["-shared", f"-Wl,--version-script={exports}", *(sanitizers or ["-Wl,--strip-debug"])]
        libraries = [f"-L{torch_libraries}", "-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed"]
        return [*compiler.command, *options, *map(str, objects), *libraries, "-o", str(library)]
    options = ["-shared", "-cudart=static", f"-Xlinker=--version-script={exports}", "-Xlinker=--strip-debug"]
    options += [f"-L{compiler.libraries}"] if compiler.libraries else []
    libtorch = f"-Xlinker=--no-as-needed,-L{torch_libraries},-ltorch,--as-needed"
    return [*compiler.command, *options, libtorch, *map(str, objects), "-o", str(library)]
