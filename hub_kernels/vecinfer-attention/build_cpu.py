# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Build this kernel's CPU variant with a C++ compiler alone: g++, or whatever CXX names.

    python build_cpu.py                   # build/torch-stable-abi211-cpu-x86_64-linux
    python build_cpu.py --sanitize        # with address and undefined-behaviour sanitizers, into _build/sanitized

`kernels.get_local_kernel(Path("hub_kernels/vecinfer-attention"), backend="cpu")` loads the result on torch 2.11 and
newer. One library serves all machines of an architecture: it chooses among instruction sets when it is called.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import build_local
import torch
from build_local import OPS_PY, REGISTRATION_H, ROOT, build_id, digest, newest, run, tomllib


def flags(torch_version: str, sanitize: bool) -> list[str]:
    """Return the compiler's flags for a least torch version such as "2.11"."""
    major, minor = (int(part) for part in torch_version.split("."))
    return [
        "-std=c++17",
        "-O3",
        "-DNDEBUG",
        "-DCPU_KERNEL",
        f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000",
        "-DPy_LIMITED_API=0x03090000",
        "-fPIC",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        # Vectors wider than the baseline's registers are passed between inlined functions only.
        "-Wno-psabi",
        # g++ 12 finds its own intrinsics uninitialized.
        "-Wno-maybe-uninitialized",
        "-Wno-uninitialized",
        f"-isystem{Path(torch.__file__).parent / 'include'}",
        f"-isystem{sysconfig.get_paths()['include']}",
        f"-I{ROOT / '_build'}",
        *(["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"] if sanitize else []),
    ]


def compile_all(files: list[Path], options: list[str], compiler: str, ops_name: str, jobs: int) -> list[Path]:
    """Compile what changed and return the object files."""
    headers = newest([path for path in files if path.suffix == ".h"] + [Path(__file__)])
    folder = ROOT / "_build" / hashlib.sha256(" ".join([compiler, *options]).encode()).hexdigest()[:8]
    folder.mkdir(parents=True, exist_ok=True)
    commands, objects = [], []
    for source in (path for path in files if path.suffix == ".cpp"):
        binding = source.parent.name == "torch-ext"  # only the binding knows the namespace
        name = source.relative_to(ROOT).as_posix().replace("/", "_")
        target = folder / f"{name}{'.' + ops_name if binding else ''}.o"
        objects.append(target)
        if target.exists() and target.stat().st_mtime > max(source.stat().st_mtime, headers):
            continue
        extra = [f"-DTORCH_EXTENSION_NAME={ops_name}"] if binding else []
        commands.append([compiler, *options, *extra, "-c", str(source), "-o", str(target)])
    with ThreadPoolExecutor(jobs) as pool:
        for command, done in zip(commands, pool.map(run, commands), strict=True):
            print(f"compiled {Path(command[-3]).relative_to(ROOT)}", flush=True)
            if done.strip():
                print(done)
    return objects


def find_compiler() -> str | None:
    """Return CXX, g++ or c++, whichever is there first."""
    names = [os.environ.get("CXX"), "g++", "c++"]
    return next((name for name in names if name and shutil.which(name.split()[0])), None)


def main(argv: list[str] | None = None) -> Path:
    """Build and return the variant's directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="compiler processes (default 2)")
    parser.add_argument("--output", type=Path, help="directory of the variants (default build)")
    parser.add_argument("--id", help="name of this build; default is a hash of the sources")
    parser.add_argument("--sanitize", action="store_true", help="address and undefined-behaviour sanitizers")
    parser.add_argument("--if-possible", action="store_true", help="without a compiler, say so and succeed")
    options = parser.parse_args(argv)

    compiler = find_compiler()
    if compiler is None:
        message = "CPU kernels: not built, because there is no C++ compiler (g++, c++ or the one that CXX names)"
        if not options.if_possible:
            raise SystemExit(message)
        print(message)
        return ROOT
    config = tomllib.loads((ROOT / "build.toml").read_text())
    name, python_name = config["general"]["name"], config["general"]["name"].replace("-", "_")
    files = build_local.sources(config, "cpu")
    ops_name = f"_{python_name}_cpu_{options.id or build_id(files)}"
    torch_version = config["torch"]["stable-abi"]["cpu"]
    output = options.output or ROOT / ("_build/sanitized" if options.sanitize else "build")
    system = f"{platform.machine()}-{platform.system().lower()}"
    variant = output / f"torch-stable-abi{torch_version.replace('.', '')}-cpu-{system}"

    (ROOT / "_build").mkdir(exist_ok=True)
    registration = ROOT / "_build" / "registration.h"
    if not registration.exists() or registration.read_text() != REGISTRATION_H:
        registration.write_text(REGISTRATION_H)
    compiled = flags(torch_version, options.sanitize)
    objects = compile_all(files, compiled, compiler, ops_name, options.jobs)
    shutil.rmtree(variant, ignore_errors=True)
    shutil.copytree(ROOT / "torch-ext" / python_name, variant, ignore=shutil.ignore_patterns("__pycache__"))
    # Only Python's entry point is exported. libtorch.so stands for whatever libraries torch consists of.
    script = ROOT / "_build" / "exports.map"
    script.write_text("{ global: PyInit_*; local: *; };\n")
    libraries = [f"-L{Path(torch.__file__).parent / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed"]
    sanitizers = [flag for flag in compiled if flag.startswith("-fsanitize")]
    strip = [] if options.sanitize else ["-Wl,--strip-debug"]
    link = ["-shared", f"-Wl,--version-script={script}", *strip, *sanitizers]
    run([compiler, *link, *map(str, objects), *libraries, "-o", str(variant / f"{ops_name}.abi3.so")])
    (variant / "_ops.py").write_text(OPS_PY.format(name=ops_name))
    metadata = {
        "name": name,
        "id": ops_name,
        "version": config["general"]["version"],
        "license": config["general"]["license"],
        "python-depends": [],
        "backend": {"type": "cpu"},
    }
    metadata["digest"] = digest(variant)
    (variant / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
    print(variant)
    return variant


if __name__ == "__main__":
    main()
