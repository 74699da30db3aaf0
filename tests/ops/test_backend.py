# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""ops/backend.py: one choice of backend, announced, never silent."""

import logging
import pickle

import pytest
import torch

from vecinfer_hf.errors import BackendError
from vecinfer_hf.ops import kernel_loader
from vecinfer_hf.ops.backend import backend, logger, select_backend
from vecinfer_hf.quantization.formats import parse_format


FORMATS = (parse_format(2), parse_format(2))


def select(ops_backend, device="cpu", key_head_dim=64, value_head_dim=64):
    return select_backend(ops_backend, torch.device(device), torch.bfloat16, key_head_dim, value_head_dim, 4, FORMATS)


def test_reference_is_taken_without_a_word(caplog):
    logger.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert select("reference") is backend("reference")
    assert not caplog.messages


def test_cuda_on_a_cpu_is_an_error_that_says_why_and_what_to_do():
    with pytest.raises(BackendError, match=r"(?s)CUDA device.*on cpu.*vecinfer doctor.*auto"):
        select("cuda")


def test_auto_falls_back_with_one_warning_that_says_why(monkeypatch):
    messages = []
    logger.warning_once.cache_clear()
    monkeypatch.setattr(type(logger), "warning", lambda self, message, *args, **kwargs: messages.append(message))
    assert select("auto") is backend("reference")
    assert select("auto") is backend("reference")
    assert len(messages) == 1
    assert "cpu" in messages[0]


@pytest.fixture
def some_kernels(monkeypatch):
    """A process that has found kernels, on a device that can run them."""
    monkeypatch.setattr(kernel_loader, "_found", kernel_loader._Found(torch, ()))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *args: (9, 0))


def test_kernels_are_taken_where_they_run(some_kernels):
    assert select("auto", "cuda") is select("cuda", "cuda") is backend("cuda")


def test_values_of_another_head_size_go_to_the_reference_by_name(some_kernels, monkeypatch):
    reason = r"values have head_dim 128 and keys 64; the compiled kernels need equal ones"
    with pytest.raises(BackendError, match=reason):
        select("cuda", "cuda", value_head_dim=128)
    messages = []
    monkeypatch.setattr(type(logger), "warning", lambda self, message, *args, **kwargs: messages.append(message))
    logger.warning_once.cache_clear()
    assert select("auto", "cuda", value_head_dim=128) is backend("reference")
    assert "values have head_dim 128" in messages[0]


@pytest.fixture
def kernels_of_the_cpu(monkeypatch):
    """A process that has found kernels for the CPU."""
    monkeypatch.setattr(kernel_loader, "_found", kernel_loader._Found(torch, ()))
    monkeypatch.setattr(kernel_loader, "_found_for_cpu", kernel_loader._Found(torch, ()))


def test_the_cpu_s_kernels_are_taken_on_a_cpu(kernels_of_the_cpu):
    assert select("auto") is select("cpu") is backend("cpu")
    assert select("auto", key_head_dim=72, value_head_dim=512) is backend("cpu")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"device": "cuda"}, "need a CPU and the model is on cuda"),
        ({"key_head_dim": 520}, "keys have head_dim 520; multiples of 8 up to 512"),
        ({"value_head_dim": 36}, "values have head_dim 36; multiples of 8 up to 512"),
    ],
)
def test_what_the_cpu_s_kernels_do_not_take_is_said(kernels_of_the_cpu, options, reason):
    with pytest.raises(BackendError, match=f'(?s)ops_backend="cpu" needs.*{reason}.*auto'):
        select("cpu", **options)


def test_the_cpu_s_kernels_are_missed_by_name(monkeypatch):
    missing = kernel_loader._Found(None, (kernel_loader.KernelCandidate("somewhere", False, "nothing there"),))
    monkeypatch.setattr(kernel_loader, "_found", missing)
    monkeypatch.setattr(kernel_loader, "_found_for_cpu", missing)
    with pytest.raises(BackendError, match="somewhere: nothing there"):
        select("cpu")


@pytest.mark.parametrize("name", ["cuda", "cpu", "reference"])
def test_a_backend_has_every_operator_and_is_found_again_by_its_name(name):
    found = backend(name)
    assert found.name == name
    assert all(callable(operator) for operator in found[1:])
    assert found._fields == ("name", "quantize", "append", "decode_attention", "dequantize")
    assert backend(pickle.loads(pickle.dumps(found.name))) is found


def test_an_unknown_name_is_refused():
    with pytest.raises(BackendError, match="There is no backend 'tpu'; there are 'cuda', 'cpu', 'reference'"):
        backend("tpu")
