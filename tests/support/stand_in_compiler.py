# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Sources of a kernel and an nvcc that need no compiler: what it "links" is a build that loads on this machine."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import torch


UNITS = ("one", "two", "three")
BACKEND = "cpu" if torch.version.cuda is None else "cuda"
"""What the `kernels` library looks for goes by torch's build, not by the devices there are."""

_BUILD_TOML = """[general]
name = "stand-in"
version = {version}
license = "Apache-2.0"
backends = ["cuda", "cpu"]

[torch]
src = ["torch-ext/binding.cpp"]

[torch.stable-abi]
cuda = "2.11"
cpu = "2.11"

[kernel.stand_in]
backend = "cuda"
cuda-capabilities = ["8.0", "9.0a"]
src = [{cuda}]

[kernel.stand_in_cpu]
backend = "cpu"
src = [{cpu}]
"""
_INIT = """def operator(*args):
    return args


append = decode_attention = dequantize = quantize = operator
"""
_COMPILER = """#!{python}
import os, pathlib, sys, time
words = sys.argv[1:]
if "--version" in words:
    print("Cuda compilation tools, release {release}, V{release}.0")
    sys.exit()
calls = pathlib.Path({calls!r})
with calls.open("a") as file:
    print(os.getpid(), *words, file=file)
source = next((word for word in words if word.endswith((".cu", ".cpp"))), "library")
{body}
pathlib.Path(words[words.index("-o") + 1]).write_text(source)
"""


def write_sources(root: Path, version: int, text: str = "") -> Path:
    """Write build.toml, three units of each backend and the Python part; `text` makes other sources."""
    (root / "torch-ext" / "stand_in").mkdir(parents=True)
    (root / "torch-ext" / "stand_in" / "__init__.py").write_text(_INIT)
    (root / "torch-ext" / "binding.cpp").write_text("// binding\n")
    names = {suffix: [f"units/{name}.{suffix}" for name in UNITS] for suffix in ("cu", "cpp")}
    (root / "units").mkdir()
    for name in [*names["cu"], *names["cpp"]]:
        (root / name).write_text(f"// {name} {text}\n")
    quoted = {suffix: ", ".join(f'"{name}"' for name in found) for suffix, found in names.items()}
    (root / "build.toml").write_text(_BUILD_TOML.format(version=version, cuda=quoted["cu"], cpu=quoted["cpp"]))
    return root


def write_compiler(place: Path, body: str = "", release: str = "13.0") -> Path:
    """Write a compiler; `body` is Python that runs for each unit, whose path is `source`. `calls` lists the calls."""
    place.parent.mkdir(parents=True, exist_ok=True)
    calls = str(place.with_name("calls"))
    place.write_text(_COMPILER.format(python=sys.executable, release=release, calls=calls, body=body))
    place.chmod(place.stat().st_mode | stat.S_IXUSR)
    return place


def calls(compiler: Path) -> list[list[str]]:
    """Return the words of each call of a compiler, its process id first."""
    file = compiler.with_name("calls")
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []
