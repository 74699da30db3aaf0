# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The sources and the build on disk: the tree, kernels' own validators, the digest, and the ABI. Needs no GPU."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, load, variants


SOURCES = sorted(path for path in (ROOT / "vecinfer_cuda").rglob("*") if path.suffix in {".cu", ".cuh", ".h"})
INCLUDES = {"api": {"append", "decode", "dequantize", "quantize"}, "instantiations": {"decode"}}
"""Folders that a folder's files may include beside their own and common."""


def test_build_toml_names_every_source():
    named = re.findall(r'"(vecinfer_cuda/.*)"', (ROOT / "build.toml").read_text())
    assert named == [path.relative_to(ROOT).as_posix() for path in SOURCES]


def test_build_toml_names_every_source_of_the_cpu():
    named = re.findall(r'"(vecinfer_cpu/.*)"', (ROOT / "build.toml").read_text())
    found = (path for path in (ROOT / "vecinfer_cpu").rglob("*") if path.suffix in {".cpp", ".h"})
    assert named == sorted(path.relative_to(ROOT).as_posix() for path in found)


def test_a_folder_includes_only_common_and_itself():
    wrong = []
    for path in SOURCES:
        folder = path.parent.name
        allowed = {folder, "common"} | INCLUDES.get(folder, set())
        for name in re.findall(r'#include "(.*)"', path.read_text()):
            target = (path.parent / name).resolve()
            assert target.is_file(), f"{path} includes {name}"
            if target.parent.name not in allowed and target.name != "torch_binding.h":
                wrong.append(f"{folder}/{path.name} includes {name}")
    assert not wrong


def test_instantiations_are_as_generated():
    command = [sys.executable, ROOT / "vecinfer_cuda" / "generate_instantiations.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def variant():
    found = variants("build")
    if not found:
        pytest.skip("the kernel is not built for the backend under test")
    return found[0].parent


@pytest.fixture(scope="module")
def library(variant):
    return next(variant.glob("*.so"))


def symbols(library, *flags):
    if shutil.which("nm") is None:
        pytest.skip("no nm on this machine")
    return subprocess.run(
        ["nm", "-D", *flags, library], check=True, capture_output=True, text=True
    ).stdout.splitlines()


def test_source_tree_is_valid():
    rust = pytest.importorskip("kernels._rust")
    assert rust.Build.open(ROOT).general.backends == [rust.Backend.CPU, rust.Backend.CUDA]


def test_metadata_and_digest(variant):
    rust = pytest.importorskip("kernels._rust")
    metadata = rust.Metadata.read_from_file(variant / "metadata.json")
    assert metadata.version == 2
    metadata.digest.validate(rust.Digest.hash_variant(rust.DigestAlgorithm.SHA256, variant))
    assert (variant / f"{metadata.id}.abi3.so").is_file()


def test_import_without_a_gpu(variant):
    module = load()
    assert module.__all__ == ["append", "decode_attention", "dequantize", "quantize"]


def test_only_stable_torch_symbols(library):
    """Undefined symbols: torch's C interface, Python's limited one, libc, libstdc++; no C++ of c10, at or torch."""
    names = [line.split()[-1].split("@")[0] for line in symbols(library, "--undefined-only")]
    mangled = [name for name in names if re.match(r"_ZN?K?(2at|3c10|5torch)", name)]
    assert mangled == []
    unknown = [
        name
        for name in names
        if not re.match(r"(aoti_torch_|torch_|Py|_Py|_Z|__|_ITM_|_Unwind_)", name) and not hasattr_libc(name)
    ]
    assert unknown == []


def hasattr_libc(name):
    import ctypes

    return hasattr(ctypes.CDLL(None), name)


def test_one_exported_symbol(library):
    """Nothing that could meet another kernel's or torch's symbols: not ours, not those of the CUDA runtime."""
    defined = [line.split()[-1] for line in symbols(library, "--defined-only")]
    name = json.loads((library.parent / "metadata.json").read_text())["id"]
    assert defined == [f"PyInit_{name}"]


def test_no_cuda_runtime_dependency(library):
    if shutil.which("readelf") is None:
        pytest.skip("no readelf on this machine")
    text = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", text))
    system = {"libstdc++.so.6", "libgcc_s.so.1", "libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"}
    assert needed - system == {"libtorch.so"}


def test_symbol_versions_are_listed(library, record_property):
    """What the build asks of the system; printed so that a newer toolchain is noticed."""
    versions = {name.split("@")[1] for name in map(lambda line: line.split()[-1], symbols(library)) if "@" in name}
    record_property("symbol_versions", sorted(versions))
    print(*sorted(versions))
    assert all(re.match(r"(GLIBC|GLIBCXX|CXXABI|GCC)_", version) for version in versions)


def test_asynchronous_copies_name_a_descriptor(library):
    """ptxas of CUDA 13.0 can lose the L2 policy of a cp.async: it then names registers that nothing set, UR0 and UR1.

    Such a kernel stops with "an illegal instruction was encountered". Seen in experiments, where a copy's source came
    through shuffles or a loop; a build that has it must not be used.
    """
    if shutil.which("cuobjdump") is None:
        pytest.skip("no cuobjdump on this machine")
    listing = subprocess.run(["cuobjdump", "-sass", library], check=True, capture_output=True, text=True).stdout
    if not variants("build", "cuda"):
        pytest.skip("about the CUDA build")
    copies = re.findall(r"LDGSTS[^;]*desc\[UR(\d+)\]", listing)
    assert copies, "no asynchronous copies found: the listing looks different"
    assert all(int(register) % 2 == 0 for register in copies)
