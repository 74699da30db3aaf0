# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Kernels built into the user's cache: once, whole or not at all, and found by the loader. A stand-in compiles."""

import json
import os
import signal
import threading
import time

import pytest
import torch
from stand_in_compiler import BACKEND, UNITS, calls, write_compiler, write_sources

from vecinfer_hf.errors import KernelBuildError
from vecinfer_hf.kernel_build import build as building
from vecinfer_hf.kernel_build import compilers
from vecinfer_hf.kernel_build.build import build, plan_build
from vecinfer_hf.kernel_build.store import put, remove, store_root, stored_kernels, writing
from vecinfer_hf.ops import kernel_loader


ARCHS = ("9.0a",)


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """A cache of this test's own, sources without CUDA in them, and a process that has not searched yet."""
    monkeypatch.setenv("VECINFER_KERNELS_CACHE", str(tmp_path / "cache"))
    for name in ("VECINFER_KERNEL_PATH", "LOCAL_KERNELS", "CXX", "NVCC"):
        monkeypatch.delenv(name, raising=False)
    use_sources(monkeypatch, write_sources(tmp_path / "sources", kernel_loader.VERSION))
    monkeypatch.setattr(kernel_loader, "_found", None)
    monkeypatch.setattr(kernel_loader, "_PACKAGE", tmp_path / "checkout" / "vecinfer_hf")
    return tmp_path


def use_sources(monkeypatch, root):
    monkeypatch.setattr(building, "kernel_sources", lambda: root)
    monkeypatch.setattr(kernel_loader, "kernel_sources", lambda: root)


@pytest.fixture
def use(monkeypatch, tmp_path):
    """Make a stand-in the compiler of both backends; returns its path."""

    def make(body="", release="13.0"):
        compiler = write_compiler(tmp_path / "bin" / "compiler", body, release)
        monkeypatch.setenv("NVCC", str(compiler))
        monkeypatch.setenv("CXX", str(compiler))
        return compiler

    return make


def plan(backend=BACKEND):
    return plan_build(backend, ARCHS if backend == "cuda" else ())


def whole_entries():
    return sorted(path.name for path in store_root().iterdir() if path.name not in (".lock", "build.log"))


@pytest.mark.parametrize("backend", ["cuda", "cpu"])
def test_a_build_is_made_once(use, backend):
    compiler = use()
    done = []
    entry, fresh = build(plan(backend), done=lambda unit, said: done.append(unit))
    assert fresh
    assert len(done) == plan(backend).steps == len(UNITS) + 2
    assert len(calls(compiler)) == len(done)
    (metadata,) = entry.directory.glob("build/*/metadata.json")
    assert json.loads(metadata.read_text())["backend"]["type"] == backend
    assert whole_entries() == [entry.name]
    again, fresh = build(plan(backend))
    assert (again, fresh) == (entry, False)
    assert len(calls(compiler)) == len(done)
    assert build(plan(backend), force=True)[1]
    assert len(calls(compiler)) == 2 * len(done)
    assert stored_kernels()[0].name == entry.name


def test_the_loader_takes_it(use):
    use()
    assert kernel_loader.load_kernels() is None
    entry, _ = build(plan())
    assert kernel_loader.load_kernels() is None  # the search is remembered
    kernel_loader.forget_search()
    assert kernel_loader.load_kernels().__file__.startswith(str(entry.directory))
    taken = kernel_loader.kernel_candidates()[-1]
    assert taken == (f"vecinfer kernels ({store_root()})", True, "")


def test_the_build_beside_the_package_comes_first(use, place):
    use()
    entry, _ = build(plan())
    beside = place / "checkout" / "vecinfer_hf" / "_kernels"
    beside.mkdir(parents=True)
    (entry.directory / "build").rename(beside / "build")
    build(plan(), force=True)
    assert kernel_loader.load_kernels().__file__.startswith(str(beside))


def reason():
    kernel_loader.forget_search()
    assert kernel_loader.load_kernels() is None
    return next(
        candidate.reason
        for candidate in kernel_loader.kernel_candidates()
        if candidate.source.startswith("vecinfer k")
    )


def test_a_build_of_other_sources_is_not_taken(use, monkeypatch, place):
    use()
    assert "vecinfer kernels build" in reason()
    entry, _ = build(plan())
    use_sources(monkeypatch, write_sources(place / "newer", kernel_loader.VERSION, "changed"))
    assert f"built from other sources ({entry.source}" in reason()
    assert build(plan())[1]
    kernel_loader.forget_search()
    assert kernel_loader.load_kernels() is not None


def test_a_build_of_another_version_is_not_taken(use, monkeypatch, place):
    use()
    use_sources(monkeypatch, write_sources(place / "version 1", 1))
    build(plan())
    assert f"it is version 1, and version {kernel_loader.VERSION} is needed" in reason()


@pytest.mark.parametrize("name", ["torch-stable-abi99-{}-x86_64-linux", "torch-stable-abi211-cu99-x86_64-linux"])
def test_a_build_of_another_torch_or_cuda_is_not_taken(use, name):
    use()
    entry, _ = build(plan())
    (variant,) = (entry.directory / "build").iterdir()
    variant.rename(variant.with_name(name.format("cpu" if BACKEND == "cpu" else "cu130")))
    assert "Cannot find a build variant for this system" in reason()


def test_a_damaged_entry_is_not_taken(use):
    use()
    entry, _ = build(plan())
    (entry.directory / "origin.json").write_text("{")
    assert "none for" in reason()
    assert build(plan())[1]


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(KernelBuildError, match="no C\\+\\+ compiler.*install g\\+\\+"):
        plan_build("cpu")
    monkeypatch.setattr(compilers, "_nvcc_paths", lambda named: iter(()))
    with pytest.raises(KernelBuildError, match="There is no nvcc.*pip install .nvidia-cuda-nvcc==13.0"):
        plan_build("cuda", ARCHS)
    assert not store_root().exists()


def test_no_headers_of_python(monkeypatch, tmp_path, use):
    use()
    monkeypatch.setattr(compilers.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(KernelBuildError, match="Python.h does not exist; install"):
        plan_build("cpu")


def test_nvcc_of_another_cuda_than_torch(monkeypatch, use):
    compiler = use(release="12.4")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(KernelBuildError, match=f"torch was built for CUDA 13.0, but {compiler} is of CUDA 12.4"):
        plan_build("cuda", ARCHS)


def test_an_nvcc_that_does_not_run(monkeypatch, tmp_path):
    monkeypatch.setenv("NVCC", str(tmp_path / "absent"))
    with pytest.raises(KernelBuildError, match="absent does not say its version"):
        plan_build("cuda", ARCHS)


def test_nvcc_of_pip_is_found_and_told_where_its_libraries_are(monkeypatch, tmp_path):
    nvcc = write_compiler(tmp_path / "nvidia" / "cu13" / "bin" / "nvcc")
    libraries = tmp_path / "nvidia" / "cu13" / "lib"
    libraries.mkdir()
    (libraries / "libcudart_static.a").touch()
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path / "nvidia")]})
    monkeypatch.setattr(compilers.importlib.util, "find_spec", lambda name: spec)
    assert str(nvcc) in compilers._nvcc_paths(None)
    assert compilers.find_nvcc("13.0", str(nvcc)).libraries == libraries


@pytest.mark.parametrize(
    ("capability", "arch"),
    [((8, 6), "8.6"), ((8, 7), "8.6"), ((9, 0), "9.0a"), ((10, 3), "10.0"), ((11, 0), "8.0+PTX"), ((12, 1), "12.0")],
)
def test_the_architecture_of_a_device(capability, arch):
    listed = ["8.0", "8.6", "8.9", "9.0a", "10.0", "12.0"]
    assert compilers.arch_for(capability, listed) == arch
    assert kernel_loader._runs_on(arch, capability)


def test_devices_that_cannot_be_built_for(monkeypatch):
    with pytest.raises(KernelBuildError, match="compute capability 7.5; the kernels need 8.0"):
        compilers.arch_for((7, 5), ["8.0"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(KernelBuildError, match="no CUDA device here; name an architecture"):
        plan_build("cuda")
    with pytest.raises(KernelBuildError, match="'sm_90' is not written like"):
        plan_build("cuda", ["sm_90"])


def test_a_compiler_that_fails(use):
    body = "if 'two' in source:\n    print(*range(100), sep='\\n'); print('error: no such thing'); sys.exit(3)"
    compiler = use(body)
    with pytest.raises(KernelBuildError, match="ended with code 3 at two") as caught:
        build(plan(), jobs=1)
    assert caught.value.tail[-1] == "error: no such thing"
    assert len(caught.value.tail) == 20
    log = store_root() / "build.log"
    assert str(log) in str(caught.value)
    assert str(compiler) in log.read_text()
    assert "\n7\n" in log.read_text()
    assert whole_entries() == []


def test_a_linker_that_fails_leaves_the_old_build(use):
    use()
    entry, _ = build(plan())
    use("if source == 'library': sys.exit('ld: cannot find -ltorch')")
    with pytest.raises(KernelBuildError, match="at the library"):
        build(plan(), force=True)
    assert whole_entries() == [entry.name]
    assert kernel_loader.load_kernels() is not None


def test_a_full_disk(use, monkeypatch):
    use("sys.exit('fatal error: error writing: No space left on device')")
    with pytest.raises(KernelBuildError, match="found no space left on the device"):
        build(plan())
    use()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building, "build_variant", full)
    with pytest.raises(KernelBuildError, match="cannot be written .No space left.*VECINFER_KERNELS_CACHE"):
        build(plan())
    assert whole_entries() == []


def test_a_cache_that_cannot_be_written(use, monkeypatch, tmp_path):
    use()
    (tmp_path / "file").touch()
    monkeypatch.setenv("VECINFER_KERNELS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(KernelBuildError, match="file/cache cannot be written .*VECINFER_KERNELS_CACHE"):
        build(plan())
    assert stored_kernels() == []


def test_two_builds_at_once(use):
    """The second waits, and finds what the first has built."""
    compiler = use("time.sleep(0.05)")
    results, waited = [], []

    def one():
        results.append(build(plan(), wait=lambda: waited.append(True)))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fresh for _, fresh in results) == [False, True]
    assert waited == [True]
    assert len(calls(compiler)) == plan().steps


def test_what_a_killed_process_left_is_removed(use):
    use()
    left = store_root() / ".unfinished-left"
    left.mkdir(parents=True)
    (left / "origin.json").write_text("{}")
    assert stored_kernels() == []
    entry, _ = build(plan())
    assert whole_entries() == [entry.name]


def test_ctrl_c_leaves_nothing(use):
    """Neither files nor compilers: two sleep when it comes, and no third is started."""
    compiler = use("time.sleep(600)")

    def interrupt():
        limit = time.monotonic() + 60
        while len(calls(compiler)) < 2 and time.monotonic() < limit:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        build(plan(), jobs=2)
    thread.join()
    assert whole_entries() == []
    assert len(calls(compiler)) == 2
    for pid, *_ in calls(compiler):
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_removal(use):
    use()
    entry, _ = build(plan())
    with pytest.raises(KernelBuildError, match=f"'other' names no kernels.*{entry.name}"):
        remove("other")
    assert remove(entry.name) == entry
    assert stored_kernels() == []
    assert whole_entries() == []


def test_the_newest_comes_first(use):
    use()
    build(plan())
    with writing() as work:
        (work / "entry").mkdir()
        put(work / "entry", "pulled-somebody", backend=BACKEND, source=None, pulled="somebody/kernels@0")
    assert [entry.pulled is None for entry in stored_kernels()] == [False, True]
    # It holds no build, so the next one is taken.
    assert kernel_loader.load_kernels() is not None
