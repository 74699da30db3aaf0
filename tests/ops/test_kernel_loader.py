# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The search for compiled kernels: every place, in order, with real layouts on disk and honest reasons."""

import json
import shutil
import sys
import threading
from pathlib import Path

import pytest
import torch

from vecinfer_hf.ops import kernel_loader


INIT = """
calls = []


def __getattr__(name):
    if name not in {names!r}:
        raise AttributeError(name)

    def operator(*args):
        calls.append((name, args))
        return name, args

    return operator
"""


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """A process that has not searched yet, with nothing beside the package and no network."""
    monkeypatch.setattr(kernel_loader, "_found", None)
    monkeypatch.setattr(kernel_loader, "_PACKAGE", tmp_path / "checkout" / "vecinfer_hf")
    monkeypatch.delenv("VECINFER_KERNEL_PATH", raising=False)
    monkeypatch.delenv("LOCAL_KERNELS", raising=False)
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("the network was used"))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("_vecinfer_test"):
            del sys.modules[name]


# What `kernels` looks for goes by torch's build, not by the devices there are.
BACKEND = "cpu" if torch.version.cuda is None else "cuda"
VARIANT = f"torch-{BACKEND}"


def write_build(place, variant=VARIANT, names=kernel_loader.OPERATORS, **changes):
    """Write a repository with one variant that needs no compiler, and return its root."""
    folder = place / "build" / variant
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(INIT.format(names=tuple(names)))
    metadata = {
        "name": "vecinfer-attention",
        "id": f"_vecinfer_test_{abs(hash(str(place)))}",
        "version": kernel_loader.VERSION,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": BACKEND},
    }
    (folder / "metadata.json").write_text(json.dumps(metadata | changes))
    return place


def reasons():
    return {candidate.source.split(" (")[0]: candidate.reason for candidate in kernel_loader.kernel_candidates()}


def test_the_version_is_that_of_the_sources():
    text = (Path(__file__).parents[2] / "hub_kernels" / "vecinfer-attention" / "build.toml").read_text()
    assert f"\nversion = {kernel_loader.VERSION}\n" in text


def test_nothing_anywhere():
    assert kernel_loader.load_kernels() is None
    candidates = kernel_loader.kernel_candidates()
    assert [candidate.taken for candidate in candidates] == [False] * 5
    assert candidates[0] == ("VECINFER_KERNEL_PATH", False, "not set")
    assert candidates[1].reason == "does not name vecinfer/vecinfer-attention"
    assert "make kernels" in candidates[2].reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_hub_is_not_asked_without_a_device():
    assert "no CUDA device" in kernel_loader.kernel_candidates()[-1].reason


def test_the_hub_comes_last(monkeypatch, tmp_path):
    from kernels import get_local_kernel

    asked = []

    def fetch(repository, version, lockfile):
        asked.append((repository, version, lockfile))
        return get_local_kernel(write_build(tmp_path / "hub"))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    lock = tmp_path / "checkout" / "vecinfer_hf" / "kernels.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("[]")
    monkeypatch.setattr("vecinfer_hf.ops.kernel_hub.fetch_kernel", fetch)
    assert kernel_loader.load_kernels() is not None
    assert asked == [("vecinfer/vecinfer-attention", kernel_loader.VERSION, lock)]
    assert kernel_loader.kernel_candidates()[-1].taken


def test_the_hub_is_not_asked_without_a_pinned_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("vecinfer_hf.ops.kernel_hub.fetch_kernel", lambda *args: pytest.fail("the Hub was asked"))
    monkeypatch.setenv("VECINFER_KERNELS_LOCK", str(tmp_path / "absent.lock"))
    assert kernel_loader.load_kernels() is None
    assert "no commit is pinned" in kernel_loader.kernel_candidates()[-1].reason


@pytest.mark.parametrize("part", ["", "build", f"build/{VARIANT}"])
def test_explicit_path(monkeypatch, tmp_path, part):
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(write_build(tmp_path / "repo") / part))
    assert kernel_loader.load_kernels() is not None
    assert kernel_loader.kernel_candidates() == [("VECINFER_KERNEL_PATH", True, "")]


def test_local_kernels(monkeypatch, tmp_path):
    path = write_build(tmp_path / "repo")
    monkeypatch.setenv("LOCAL_KERNELS", f"other/kernel=/nowhere:vecinfer/vecinfer-attention={path}")
    assert kernel_loader.load_kernels() is not None
    assert [candidate.taken for candidate in kernel_loader.kernel_candidates()] == [False, True]


@pytest.mark.parametrize("place", ["checkout/vecinfer_hf/_kernels", "checkout/hub_kernels/vecinfer-attention"])
def test_beside_the_package(tmp_path, place):
    write_build(tmp_path / place)
    assert kernel_loader.load_kernels() is not None
    assert kernel_loader.kernel_candidates()[-1] == ("build beside the package", True, "")


def test_order(monkeypatch, tmp_path):
    write_build(tmp_path / "checkout/hub_kernels/vecinfer-attention")
    explicit = write_build(tmp_path / "explicit")
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(explicit))
    assert str(explicit) in kernel_loader.load_kernels().__file__


def test_broken_places_are_passed_over(monkeypatch, tmp_path):
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(tmp_path / "absent"))
    broken = write_build(tmp_path / "broken")
    (broken / f"build/{VARIANT}/__init__.py").write_text("raise ImportError('undefined symbol: aoti_torch_nothing')")
    monkeypatch.setenv("LOCAL_KERNELS", f"vecinfer/vecinfer-attention={broken}")
    write_build(tmp_path / "checkout/hub_kernels/vecinfer-attention")
    assert kernel_loader.load_kernels() is not None
    assert reasons() == {
        "VECINFER_KERNEL_PATH": f"{tmp_path / 'absent'} does not exist",
        "LOCAL_KERNELS": reasons()["LOCAL_KERNELS"],
        "build beside the package": "",
    }
    assert "ImportError: undefined symbol: aoti_torch_nothing" in reasons()["LOCAL_KERNELS"]


def test_no_variant_for_this_machine(monkeypatch, tmp_path):
    path = write_build(tmp_path / "repo", "torch29-cxx98-cu118-aarch64-linux")
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(path))
    assert kernel_loader.load_kernels() is None
    assert "Cannot find a build variant for this system" in reasons()["VECINFER_KERNEL_PATH"]


def test_unreadable_metadata(monkeypatch, tmp_path):
    path = write_build(tmp_path / "repo")
    (path / f"build/{VARIANT}/metadata.json").write_text("{")
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(path))
    assert kernel_loader.load_kernels() is None
    assert reasons()["VECINFER_KERNEL_PATH"] != ""


def test_another_version(monkeypatch, tmp_path):
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(write_build(tmp_path / "repo", version=1)))
    assert kernel_loader.load_kernels() is None
    assert reasons()["VECINFER_KERNEL_PATH"] == "it is version 1, and version 2 is needed"


def test_a_missing_operator(monkeypatch, tmp_path):
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(write_build(tmp_path / "repo", names=("quantize", "append"))))
    assert kernel_loader.load_kernels() is None
    assert "lacks decode_attention, dequantize" in reasons()["VECINFER_KERNEL_PATH"]


def test_a_build_for_another_device(monkeypatch, tmp_path):
    other = "cuda" if BACKEND == "cpu" else "cpu"
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(write_build(tmp_path / "repo", backend={"type": other})))
    assert kernel_loader.load_kernels() is None
    assert reasons()["VECINFER_KERNEL_PATH"] == f"it is built for {other}, and a build for {BACKEND} is needed"


def test_the_cpu_s_build_beside_a_torch_for_cuda(monkeypatch, tmp_path):
    """Both builds lie in one directory; each device gets its own, and the Hub is not asked for the CPU's."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(kernel_loader, "_found_for_cpu", None)
    path = write_build(tmp_path / "repo", "torch-cpu", backend={"type": "cpu"})
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(path))
    assert "torch-cpu" in kernel_loader.load_kernels("cpu").__file__
    assert kernel_loader.kernel_candidates("cpu") == [("VECINFER_KERNEL_PATH", True, "")]
    monkeypatch.setattr(kernel_loader, "_found_for_cpu", None)
    monkeypatch.delenv("VECINFER_KERNEL_PATH")
    assert kernel_loader.load_kernels("cpu") is None
    assert len(kernel_loader.kernel_candidates("cpu")) == 4


def test_another_architecture(monkeypatch, tmp_path):
    path = write_build(tmp_path / "repo", backend={"type": BACKEND, "archs": ["9.0a"]})
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *args: (8, 6))
    monkeypatch.setattr(kernel_loader, "_from_hub", lambda: write_build(tmp_path / "no module"))
    assert kernel_loader.load_kernels() is None
    assert reasons()["VECINFER_KERNEL_PATH"] == "it is built for 9.0a, and this device has compute capability 8.6"


@pytest.mark.parametrize(
    ("arch", "capability", "runs"),
    [
        ("8.0", (8, 9), True),
        ("8.0", (9, 0), False),
        ("8.0+PTX", (12, 0), True),
        ("9.0+PTX", (8, 0), False),
        ("9.0a", (9, 0), True),
        ("9.0a", (10, 0), False),
    ],
)
def test_architectures(arch, capability, runs):
    assert kernel_loader._runs_on(arch, capability) is runs


def test_once_per_process(monkeypatch, tmp_path):
    path = write_build(tmp_path / "repo")
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(path))
    found = []
    threads = [threading.Thread(target=lambda: found.append(kernel_loader.load_kernels())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shutil.rmtree(path)
    monkeypatch.delenv("VECINFER_KERNEL_PATH")
    assert kernel_loader.load_kernels() is not None
    assert all(module is found[0] for module in found)
