# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels built in this checkout: their own suite, and a model that generates on them.

`make test` builds them where there is a C++ compiler. Other tests leave them aside (conftest.py).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_model

from vecinfer_hf import VecInferCache, enabled
from vecinfer_hf.integration.compat import cache_argument
from vecinfer_hf.ops import kernel_loader


KERNEL = Path(__file__).parents[2] / "hub_kernels" / "vecinfer-attention"
pytestmark = pytest.mark.skipif(
    not list((KERNEL / "build").glob("torch-*-cpu-*/metadata.json")), reason="not built: make cpu-kernels"
)


def run_suite(*arguments):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"VECINFER_KERNEL_BACKEND": "cpu", "OMP_NUM_THREADS": "1"}
    environment.pop("VECINFER_CPU_PATH", None)
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=KERNEL)


def test_the_operators_small_suite():
    files = "tests/test_cpu.py", "tests/test_append.py"
    done = run_suite(*files, "-m", "kernels_ci", "-k", "not portable and not d8b12 and not dims4")
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_the_operators_whole_suite():
    done = run_suite("tests")
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture
def kernels_built_here(monkeypatch):
    """Search for kernels as a user's process does."""
    monkeypatch.setattr(kernel_loader, "_found", None)
    monkeypatch.setattr(kernel_loader, "_found_for_cpu", None)
    monkeypatch.delenv("VECINFER_KERNEL_PATH", raising=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"static": True, "max_cache_len": 140}], ids=["growing", "static"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_logits_are_those_of_the_torch_operators(kernels_built_here, dtype, options, family):
    """A prompt, single tokens and several at once; the bound is twice what rounding the model to the dtype does."""
    model = tiny_model(family).to(dtype).eval()
    codebook = random_codebook(model.config, kind="matrix", value_kind="matrix")
    options = options | {"residual_length": 16, "sink_length": 2}
    ids = torch.randint(1, 97, (2, 90))
    steps = [ids[:, :60], *(ids[:, i : i + 1] for i in range(60, 80)), ids[:, 80:]]
    logits = {}
    for name in ("cpu", "reference"):
        cache = VecInferCache(model, codebook, ops_backend=name, **options)
        with torch.no_grad(), enabled(model, codebook):
            outputs = [model(step, **cache_argument(cache)).logits.float() for step in steps]
        assert {layer.ops_name for layer in cache.quantized_layers} == {name}
        logits[name] = torch.cat(outputs, 1)
    # Some code is nearest by a rounding only, and one code moves a logit by little.
    error = (logits["cpu"] - logits["reference"]).norm() / logits["reference"].norm()
    assert error < (2e-3 if dtype == torch.float32 else 2e-2)


def test_auto_takes_them(kernels_built_here):
    model = tiny_model("llama")
    cache = VecInferCache(model, random_codebook(model.config))
    with torch.no_grad():
        model.generate(torch.randint(1, 97, (1, 20)), **cache_argument(cache), max_new_tokens=2)
    assert {layer.ops_name for layer in cache.quantized_layers} == {"cpu"}
