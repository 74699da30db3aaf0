# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""One build of the kernels: sources compiled and linked into a directory that the `kernels` library loads."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from .compilers import Compiler, compile_flags, link_command
from .jobs import Runner
from .sources import digest, read_config, source_files, source_id, units, variant_name


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


def build_variant(
    root: Path,
    output: Path,
    *,
    backend: str,
    compiler: Compiler,
    archs: list[str],
    work: Path,
    log: Path,
    jobs: int,
    identity: str | None = None,
    extra: list[str] | None = None,
    done: Callable[[str, str], None] = lambda unit, said: None,
) -> Path:
    """Compile what changed since the last call with this `work`, link it, and return the variant's directory.

    Args:
        root: directory of build.toml.
        output: directory of the variants; one of the same name is replaced.
        backend: "cuda" or "cpu".
        compiler: of that backend.
        archs: GPU architectures as in build.toml; empty for "cpu".
        work: directory of object files.
        log: path of the compilers' log.
        jobs: compiler processes at a time.
        identity: name of this build; default a hash of the sources.
        extra: further flags of the compiler.
        done: takes the name of each unit that was compiled or needed no compiling, and what the compiler said.

    Raises:
        KernelBuildError: if a compiler fails.
        OSError: if a directory cannot be written.
    """
    config, files = read_config(root), source_files(root, backend)
    name = config["general"]["name"]
    python_name = name.replace("-", "_")
    ops_name = f"_{python_name}_{backend}_{identity or source_id(root, backend)}"
    work.mkdir(parents=True, exist_ok=True)
    (work / "registration.h").write_text(REGISTRATION_H)
    (work / "exports.map").write_text("{ global: PyInit_*; local: *; };\n")
    flags = compile_flags(backend, config["torch"]["stable-abi"][backend], archs, list(extra or ()))
    flags += [f"-I{work}", f"-I{root}"]
    runner = Runner(log, work)
    objects = _compile(root, files, [*compiler.command, *flags], runner, work, jobs, ops_name, done)

    variant = output / variant_name(config, backend, compiler.cuda)
    shutil.rmtree(variant, ignore_errors=True)
    shutil.copytree(root / "torch-ext" / python_name, variant, ignore=shutil.ignore_patterns("__pycache__"))
    library = variant / f"{ops_name}.abi3.so"
    linking = link_command(compiler, objects, work / "exports.map", library, list(extra or ()))
    runner.run([linking], 1, lambda command, said: done(library.name, said))
    (variant / "_ops.py").write_text(OPS_PY.format(name=ops_name))
    metadata = {
        "name": name,
        "id": ops_name,
        "version": config["general"]["version"],
        "license": config["general"]["license"],
        "python-depends": [],
        "backend": {"type": backend} | ({"archs": sorted(archs)} if archs else {}),
    }
    metadata["digest"] = digest(variant)
    (variant / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
    return variant


def _compile(root, files, command, runner, work, jobs, ops_name, done) -> list[Path]:
    """Return the object files in the order of the sources."""
    # What every unit depends on: all headers, and the code that chooses the flags.
    rules = [path for path in files if path.suffix in {".h", ".cuh"}] + sorted(Path(__file__).parent.glob("*.py"))
    newest = max(path.stat().st_mtime for path in rules)
    # Objects of other flags are never reused.
    folder = work / hashlib.sha256(" ".join(command).encode()).hexdigest()[:8]
    folder.mkdir(exist_ok=True)
    commands, objects, targets = [], [], {}
    for source in units(files):
        name = source.relative_to(root).as_posix()
        binding = source.parent.name == "torch-ext"  # only the binding knows the namespace
        target = folder / f"{name.replace('/', '_')}{'.' + ops_name if binding else ''}.o"
        objects.append(target)
        if target.exists() and target.stat().st_mtime > max(source.stat().st_mtime, newest):
            done(name, "")
            continue
        unfinished = target.with_suffix(".part")
        targets[str(unfinished)] = (name, target)
        extra = [f"-DTORCH_EXTENSION_NAME={ops_name}"] if binding else []
        commands.append([*command, *extra, "-c", str(source), "-o", str(unfinished)])

    def finish(finished: list[str], said: str) -> None:
        name, target = targets[finished[-1]]
        Path(finished[-1]).replace(target)
        done(name, said)

    runner.run(commands, jobs, finish)
    return objects
