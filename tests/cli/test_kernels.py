# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer kernels`: build, list and remove with a stand-in compiler; what goes wrong is told in a line."""

import json

import pytest
import torch
from command_line import error_line
from stand_in_compiler import BACKEND, write_compiler, write_sources

from vecinfer_hf.kernel_build import build as building
from vecinfer_hf.ops import kernel_loader


HERE = ("--backend", BACKEND, *(("--arch", "9.0a") if BACKEND == "cuda" else ()))


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    monkeypatch.setenv("VECINFER_KERNELS_CACHE", str(tmp_path / "cache"))
    sources = write_sources(tmp_path / "sources", kernel_loader.VERSION)
    for module in (building, kernel_loader):
        monkeypatch.setattr(module, "kernel_sources", lambda: sources)
    monkeypatch.setattr(kernel_loader, "_found", None)
    monkeypatch.setattr(kernel_loader, "_PACKAGE", tmp_path / "checkout" / "vecinfer_hf")
    use(monkeypatch, tmp_path)
    return tmp_path / "cache"


def use(monkeypatch, tmp_path, body=""):
    compiler = str(write_compiler(tmp_path / "bin" / "compiler", body))
    monkeypatch.setenv("NVCC", compiler)
    monkeypatch.setenv("CXX", compiler)


def test_build_list_doctor_and_remove(vecinfer, place):
    code, out, err = vecinfer("kernels", "build", *HERE)
    assert code == 0
    assert "compiling for" in err
    assert f"Built: {place}" in out
    assert "They load here." in out
    assert "Already built" in vecinfer("kernels", "build", *HERE)[1]
    (row,) = json.loads(vecinfer("kernels", "list", "--json")[1])["kernels"]
    assert (row["backend"], row["reason"], row["pulled"]) == (BACKEND, "", None)
    assert row["name"] in vecinfer("kernels", "list")[1]
    assert f"vecinfer kernels ({place}): loads" in vecinfer("doctor")[1]
    assert vecinfer("kernels", "remove", row["name"])[0] == 0
    assert f"None in {place}" in vecinfer("kernels", "list")[1]


def test_what_a_failing_compiler_said_is_shown(vecinfer, place, monkeypatch, tmp_path):
    use(monkeypatch, tmp_path, "sys.exit('one.cu(7): error: expected a ;')")
    code, out, err = vecinfer("kernels", "build", *HERE)
    assert code == 1
    assert "one.cu(7): error: expected a ;\n" in err
    assert f"The whole log is {place / 'build.log'}" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("build", "--backend", "cuda", "--arch", "sm_90"), "not written like 8.6, 9.0a or 8.0+PTX"),
        (("build", "--backend", "cpu", "--arch", "9.0a"), "--arch has an effect only with --backend cuda"),
        (("remove", "nothing"), "'nothing' names no kernels"),
        (("pull", "somebody/kernels"), "is not OWNER/NAME@COMMIT"),
        (("pull", "somebody/kernels@main"), "branches and tags move"),
        (("pull", f"kernels@{'0' * 40}"), "is not OWNER/NAME@COMMIT"),
    ],
)
def test_refusals(vecinfer, place, words, told):
    assert told in error_line(vecinfer("kernels", *words))
    assert not place.exists()


def test_a_backend_that_does_not_exist(vecinfer):
    code, _, err = vecinfer("kernels", "build", "--backend", "metal")
    assert code == 2
    assert "none of cuda, cpu" in err


def test_without_a_device_and_without_kernels_for_the_cpu(vecinfer, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("vecinfer_hf.cli.kernels.default_backends", lambda: [])
    assert "torch finds no CUDA device here" in error_line(vecinfer("kernels", "build"))


def test_the_warning_names_both_commands(monkeypatch):
    """Where a CUDA device is, and no kernels."""
    from vecinfer_hf.ops import backend
    from vecinfer_hf.quantization.formats import parse_format

    formats = (parse_format("d4b8"), parse_format("d4b8"))
    told = []
    monkeypatch.setattr(backend.logger, "warning_once", told.append)
    device = torch.device("cuda")
    assert backend.select_backend("auto", device, torch.bfloat16, 128, 128, 4, formats).name == "reference"
    (text,) = told
    assert "`vecinfer kernels build`" in text
    assert "`vecinfer kernels pull OWNER/NAME@COMMIT`" in text
