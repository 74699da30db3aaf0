# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Generating on codes makes no float64 tensor, which Apple GPUs (mps) lack; what needs one is refused there by name.

There is no such device here: this only shows that the torch operators do not ask for what it cannot do.
"""

from types import SimpleNamespace

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

import vecinfer_hf
from vecinfer_hf.calibration import requirements
from vecinfer_hf.errors import ConfigError, UnsupportedModelError
from vecinfer_hf.quantization import kmeans


class NoFloat64(TorchDispatchMode):
    """Raises, as mps does, where an operator returns a float64 tensor."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                raise TypeError(f"{function} returned float64")
        return result


def test_the_mode_notices_float64():
    with NoFloat64(), pytest.raises(TypeError, match="float64"):
        torch.ones(2).double()


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_generate_needs_no_float64(family):
    model = tiny_model(family)
    codebook = random_codebook(model.config)
    vecinfer_hf.enable(model, codebook, residual_length=8)
    ids = torch.randint(2, 97, (2, 60))
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    with NoFloat64():
        output = model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False)
    assert output.shape == (2, 64)


def test_calibration_on_mps_is_refused_before_text_is_read(monkeypatch):
    monkeypatch.setattr(requirements, "computing_device", lambda model: torch.device("mps"))
    model = tiny_model("llama")
    with pytest.raises(UnsupportedModelError, match="on mps, which has no float64.*CPU"):
        vecinfer_hf.calibrate(model, torch.randint(2, 97, (1, 600)))


def test_clustering_on_mps_is_refused():
    points = SimpleNamespace(device=torch.device("mps"))
    with pytest.raises(ConfigError, match="points are on mps.*CPU"):
        kmeans._check(points, 4, None)
