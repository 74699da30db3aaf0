# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The wheel holds the package and its kernels' sources, and README runs with it, outside the checkout.

Heavy dependencies come from the environment of the tests; models come from a Hub on this machine.
"""

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hub_process import run_fresh
from pages import ROOT, Step, page, steps

from vecinfer_hf.calibration.text import EXCERPTS, load_text
from vecinfer_hf.kernel_build.sources import kernel_sources, read_config, source_files


GENERATOR = "vecinfer_cuda/generate_instantiations.py"
"""Lies among the sources."""
pytest_plugins = ["hub_fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.hub]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_it_holds_the_package_the_codebooks_and_the_kernels_sources_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "vecinfer_hf").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    codebooks = {
        f"vecinfer_hf/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "quant_configs").rglob("*")
        if path.is_file()
    }
    kernel = kernel_sources()
    files = {path for backend in read_config(kernel)["general"]["backends"] for path in source_files(kernel, backend)}
    files |= {kernel / "build.toml", *(kernel / "torch-ext").rglob("*.py")}
    sources = {f"vecinfer_hf/_kernels/{path.relative_to(kernel).as_posix()}" for path in files}
    assert names - {f"vecinfer_hf/_kernels/{GENERATOR}"} == ours | codebooks | sources
    assert "vecinfer_hf/calibration/data/persuasion-excerpt.txt" in names
    assert not [
        name for name in names if re.search(r"research|ablation|peers|needles|assets|demo|results\.json", name)
    ]


@dataclass
class Machine:
    """A place with the wheel installed and without a checkout."""

    work: Path
    environment: dict[str, str]

    def run(self, *command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, cwd=self.work, env=self.environment, capture_output=True, text=True, timeout=900
        )


@pytest.fixture(scope="module")
def machine(wheel, running_hub, tmp_path_factory):
    """The wheel in a fresh virtual environment, the tests' packages behind it, and the Hub with README's models."""
    folder = tmp_path_factory.mktemp("machine")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run([*install, str(wheel)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # Folders named in a .pth file are searched, but their own .pth files, which an editable install has, are not read.
    shared = dict.fromkeys((sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]))
    (site / "shared.pth").write_text("\n".join(shared) + "\n")
    publisher = running_hub.store.add_user("publisher", organizations=["HuggingFaceTB", "Qwen", "meta-llama"])
    (folder / "publisher").mkdir()
    code = "import published_models; print(len(published_models.publish()))"
    published = run_fresh(code, running_hub.url, folder / "publisher", HF_TOKEN=publisher)
    assert published.result == 3
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "VECINFER", "KERNELS", "PYTHON", "VIRTUAL_ENV", "COVERAGE", "COV_"))
    }
    work = folder / "work"
    work.mkdir()
    for name, text in zip(("my-text.txt", "other-text.txt"), EXCERPTS, strict=True):
        (work / name).write_text(load_text(text), encoding="utf-8")
    return Machine(
        work,
        kept
        | {
            "PATH": os.pathsep.join((str(python.parent), os.environ["PATH"])),
            "HF_ENDPOINT": running_hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(folder / "home"),
            "HF_TOKEN": running_hub.store.add_user("me"),
            "OMP_NUM_THREADS": "1",
        },
    )


def test_nothing_of_the_checkout_can_be_imported(machine):
    code = (
        "import importlib.util as u, sys, vecinfer_hf; print(vecinfer_hf.__file__); print(u.find_spec('examples'), "
        "u.find_spec('tiny_models')); print(*sys.path, sep='\\n')"
    )
    done = machine.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    place, specs, *paths = done.stdout.splitlines()
    assert Path(place).is_relative_to(machine.work.parent / "venv")
    assert str(ROOT / "examples") not in specs
    assert specs.endswith("None")
    # The tests' environment may lie in the checkout; nothing beside it may be searched.
    inside = [path for path in paths if Path(path).is_relative_to(ROOT)]
    assert all(Path(path).is_relative_to(sys.prefix) for path in inside)


def test_every_command_and_block_of_the_readme_runs(machine):
    readme = page("README.md")
    # Of the commands in sentences those that are whole, with their options.
    whole = re.findall(r"`(vecinfer [^`\n]*--[^`\n]*)`", readme)
    told = [step for step in steps(readme) if not step.marks]
    told += [Step("bash", line, frozenset(), 0) for line in whole if not re.search(r"\b[A-Z]{3,}\b", line)]
    assert len(told) >= 12
    failed, printed = [], {}
    for step in told:
        done = machine.run("python" if step.language == "python" else "bash", "-c", step.text)
        printed[step.text] = done.stdout
        if done.returncode:
            failed.append(f"README.md:{step.line}: {step.text}\n{done.stderr[-2000:]}")
    assert not failed, "\n\n".join(failed)
    # The arithmetic that README quotes.
    plan = next(text for line, text in printed.items() if line.startswith("vecinfer plan"))
    assert {"37,685", "296,417"} <= set(re.findall(r"[\d,]+", plan)) & set(re.findall(r"[\d,]+", readme))
