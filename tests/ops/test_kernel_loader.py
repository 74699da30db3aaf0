# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The search for compiled kernels: every place, in order, with real layouts on disk and honest reasons."""

import json
import shutil
import sys
import threading

import pytest
import torch

from vecinfer_hf.ops import kernels
from vecinfer_hf.quantization.formats import parse_format


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
    monkeypatch.setattr(kernels, "_found", None)
    monkeypatch.setattr(kernels, "_PACKAGE", tmp_path / "checkout" / "vecinfer_hf")
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


def write_build(place, variant=VARIANT, names=kernels.OPERATORS, **changes):
    """Write a repository with one variant that needs no compiler, and return its root."""
    folder = place / "build" / variant
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(INIT.format(names=tuple(names)))
    metadata = {
        "name": "vecinfer-attention",
        "id": f"_vecinfer_test_{abs(hash(str(place)))}",
        "version": 1,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": BACKEND},
    }
    (folder / "metadata.json").write_text(json.dumps(metadata | changes))
    return place


def reasons():
    return {candidate.source.split(" (")[0]: candidate.reason for candidate in kernels.kernel_candidates()}


def test_nothing_anywhere():
    assert kernels.load_kernels() is None
    candidates = kernels.kernel_candidates()
    assert [candidate.taken for candidate in candidates] == [False] * 4
    assert candidates[0] == ("VECINFER_KERNEL_PATH", False, "not set")
    assert candidates[1].reason == "does not name vecinfer/vecinfer-attention"
    assert "make kernels" in candidates[2].reason
    with pytest.raises(RuntimeError, match=r"No compiled kernels were found \(VECINFER_KERNEL_PATH: not set"):
        kernels.dequantize(torch.zeros(1), _codebook(), 0, 1, torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_hub_is_not_asked_without_a_device():
    assert "no CUDA device" in kernels.kernel_candidates()[-1].reason


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
    assert kernels.load_kernels() is not None
    assert asked == [("vecinfer/vecinfer-attention", 1, lock)]
    assert kernels.kernel_candidates()[-1].taken


def test_the_hub_is_not_asked_without_a_pinned_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("vecinfer_hf.ops.kernel_hub.fetch_kernel", lambda *args: pytest.fail("the Hub was asked"))
    monkeypatch.setenv("VECINFER_KERNELS_LOCK", str(tmp_path / "absent.lock"))
    assert kernels.load_kernels() is None
    assert "no commit is pinned" in kernels.kernel_candidates()[-1].reason


@pytest.mark.parametrize("part", ["", "build", f"build/{VARIANT}"])
def test_explicit_path(monkeypatch, tmp_path, part):
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(write_build(tmp_path / "repo") / part))
    assert kernels.load_kernels() is not None
    assert kernels.kernel_candidates() == [("VECINFER_KERNEL_PATH", True, "")]


def test_local_kernels(monkeypatch, tmp_path):
    path = write_build(tmp_path / "repo")
    monkeypatch.setenv("LOCAL_KERNELS", f"other/kernel=/nowhere:vecinfer/vecinfer-attention={path}")
    assert kernels.load_kernels() is not None
    assert [candidate.taken for candidate in kernels.kernel_candidates()] == [False, True]


@pytest.mark.parametrize("place", ["checkout/vecinfer_hf/_kernels", "checkout/hub_kernels/vecinfer-attention"])
def test_beside_the_package(tmp_path, place):
    write_build(tmp_path / place)
    assert kernels.load_kernels() is not None
    assert kernels.kernel_candidates()[-1] == ("build beside the package", True, "")


def test_order(monkeypatch, tmp_path):
    write_build(tmp_path / "checkout/hub_kernels/vecinfer-attention")
    explicit = write_build(tmp_path / "explicit")
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(explicit))
    assert str(explicit) in kernels.load_kernels().__file__


def test_broken_places_are_passed_over(monkeypatch, tmp_path):
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(tmp_path / "absent"))
    broken = write_build(tmp_path / "broken")
    (broken / f"build/{VARIANT}/__init__.py").write_text("raise ImportError('undefined symbol: aoti_torch_nothing')")
    monkeypatch.setenv("LOCAL_KERNELS", f"vecinfer/vecinfer-attention={broken}")
    write_build(tmp_path / "checkout/hub_kernels/vecinfer-attention")
    assert kernels.load_kernels() is not None
    assert reasons() == {
        "VECINFER_KERNEL_PATH": f"{tmp_path / 'absent'} does not exist",
        "LOCAL_KERNELS": reasons()["LOCAL_KERNELS"],
        "build beside the package": "",
    }
    assert "ImportError: undefined symbol: aoti_torch_nothing" in reasons()["LOCAL_KERNELS"]


def test_no_variant_for_this_machine(monkeypatch, tmp_path):
    path = write_build(tmp_path / "repo", "torch29-cxx98-cu118-aarch64-linux")
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(path))
    assert kernels.load_kernels() is None
    assert "Cannot find a build variant for this system" in reasons()["VECINFER_KERNEL_PATH"]


def test_unreadable_metadata(monkeypatch, tmp_path):
    path = write_build(tmp_path / "repo")
    (path / f"build/{VARIANT}/metadata.json").write_text("{")
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(path))
    assert kernels.load_kernels() is None
    assert reasons()["VECINFER_KERNEL_PATH"] != ""


def test_another_version(monkeypatch, tmp_path):
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(write_build(tmp_path / "repo", version=2)))
    assert kernels.load_kernels() is None
    assert reasons()["VECINFER_KERNEL_PATH"] == "it is version 2, and version 1 is needed"


def test_a_missing_operator(monkeypatch, tmp_path):
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(write_build(tmp_path / "repo", names=("quantize", "append"))))
    assert kernels.load_kernels() is None
    assert "lacks decode_attention, dequantize" in reasons()["VECINFER_KERNEL_PATH"]


def test_another_architecture(monkeypatch, tmp_path):
    path = write_build(tmp_path / "repo", backend={"type": BACKEND, "archs": ["9.0a"]})
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *args: (8, 6))
    monkeypatch.setattr(kernels, "_from_hub", lambda: write_build(tmp_path / "no module"))
    assert kernels.load_kernels() is None
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
    assert kernels._runs_on(arch, capability) is runs


def test_once_per_process(monkeypatch, tmp_path):
    path = write_build(tmp_path / "repo")
    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(path))
    found = []
    threads = [threading.Thread(target=lambda: found.append(kernels.load_kernels())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shutil.rmtree(path)
    monkeypatch.delenv("VECINFER_KERNEL_PATH")
    assert kernels.load_kernels() is not None
    assert all(module is found[0] for module in found)


def _codebook():
    from vecinfer_hf.ops.types import LayerCodebook

    return LayerCodebook(*[torch.full((1,), float(i)) for i in range(10)])


def test_adapters_pass_every_tensor_in_its_place(monkeypatch, tmp_path):
    """Argument orders, against the schemas' names as the kernel's own wrappers give them."""
    from vecinfer_hf.ops.types import CacheBuffers

    monkeypatch.setenv("VECINFER_KERNEL_PATH", str(write_build(tmp_path / "repo")))
    codebook = _codebook()
    buffers = CacheBuffers(*[torch.full((1,), 100.0 + i) for i in range(7)])
    key, value = torch.zeros(1, 2, 3, 4), torch.ones(1, 2, 3, 4)
    writing = [codebook[i] for i in (0, 1, 3, 4, 5, 6, 8, 9)]
    reading = [codebook[i] for i in (0, 2, 3, 4, 5, 7, 8, 9)]
    module = kernels.load_kernels()

    def last():
        name, args = module.calls[-1]
        return name, [id(x) if isinstance(x, torch.Tensor) else x for x in args]

    def ids(*items):
        return [id(x) if isinstance(x, torch.Tensor) else x for x in items]

    numbers = [torch.zeros(1, dtype=torch.int32) for _ in range(3)]
    kernels.quantize(key, value, buffers.codes, *numbers, codebook)
    assert last() == ("quantize", ids(key, value, buffers.codes, *numbers, *writing))
    kernels.append(key, value, buffers, codebook, 128)
    assert last() == ("append", ids(key, value, *buffers, *writing, 128))
    kernels.decode_attention(key, buffers, codebook, 128, 0.5, 30.0, value, 4)
    assert last() == ("decode_attention", ids(key, *buffers, *reading, 128, 0.5, 30.0, value, 4))
    kernels.dequantize(buffers.codes, codebook, 3, 7, torch.float16)
    assert last() == ("dequantize", ids(buffers.codes, *reading, 3, 7, torch.float16))
    kernels.append(key.transpose(2, 3), value, buffers, codebook, 128)
    assert module.calls[-1][1][0].stride(-1) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"head_dim": 72}, "head_dim 72 is not compiled; 64, 80, 96, 128, 256 are"),
        ({"group": 17}, "17 query heads per key/value head are not supported; 1 to 16 are"),
        ({"dtype": torch.float32}, "torch.float32 is not supported"),
        ({"device": torch.device("cpu")}, "need a CUDA device, not cpu"),
        ({"capability": (7, 5)}, "compute capability 7.5 is too low"),
        ({}, None),
    ],
)
def test_supports(monkeypatch, change, reason):
    asked = {"head_dim": 128, "group": 4, "dtype": torch.bfloat16, "device": torch.device("cuda")} | change
    capability = asked.pop("capability", (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *args: capability)
    asked |= {"key_format": parse_format(2), "value_format": parse_format(4)}
    answer = kernels.supports(**asked)
    assert answer is None if reason is None else reason in answer
