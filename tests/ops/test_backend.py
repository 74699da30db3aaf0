# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""ops/__init__.py: one choice of backend, announced, never silent."""

import logging

import pytest
import torch

from vecinfer_hf import ops
from vecinfer_hf.ops import reference, select_backend
from vecinfer_hf.quantization.formats import parse_format


def select(ops_backend, device="cpu"):
    formats = (parse_format(2), parse_format(2))
    return select_backend(ops_backend, torch.device(device), torch.float32, 64, 4, formats)


def test_reference_is_taken_without_a_word(caplog):
    ops.logger.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert select("reference") is reference
    assert not caplog.messages


def test_cuda_on_a_cpu_is_an_error_that_says_why_and_what_to_do():
    with pytest.raises(RuntimeError, match=r"(?s)CUDA device.*on cpu.*vecinfer doctor.*auto"):
        select("cuda")


def test_auto_falls_back_with_one_warning_that_says_why(monkeypatch):
    messages = []
    ops.logger.warning_once.cache_clear()
    monkeypatch.setattr(type(ops.logger), "warning", lambda self, message, *args, **kwargs: messages.append(message))
    assert select("auto") is reference
    assert select("auto") is reference
    assert len(messages) == 1
    assert "cpu" in messages[0]


@pytest.mark.parametrize("name", ["quantize", "append", "decode_attention", "dequantize"])
def test_the_reference_has_every_operator(name):
    assert callable(getattr(reference, name))
