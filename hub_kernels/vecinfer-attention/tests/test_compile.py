# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""opcheck, torch.compile, CUDA graphs, and two builds in one process. decode_attention's graph is in its own tests."""

from __future__ import annotations

import importlib

import cases
import pytest
import torch
from cases import int32
from conftest import load, variants
from test_append import Buffers


pytestmark = pytest.mark.gpu


@pytest.fixture
def ops(kernel):
    # By name: another test may have loaded the same build again since.
    return importlib.import_module(f"{kernel.__name__}._ops").ops


def appended(tokens=1, batch=2):
    codebook = cases.random_codebook(2, 128)
    buffers = Buffers(codebook, [30] * batch, [10] * batch, 2, 128, sinks=4, residual=16)
    states = cases.random_states(batch, 2, tokens, 128, torch.bfloat16)
    return codebook, buffers, states


def test_opcheck(ops):
    codebook, buffers, states = appended()
    for op, args in (
        (
            ops.quantize,
            (states, states, buffers.codes, None, int32(0, 3), int32(1, 1), int32(0, 0), *cases.write_args(codebook)),
        ),
        (ops.append, (states, states, *buffers.arguments(), *cases.write_args(codebook))),
        (ops.dequantize, (buffers.codes, None, *cases.read_args(codebook), 128, 3, 40, torch.bfloat16)),
        (ops.decode_attention, (states, *buffers.arguments(), *cases.read_args(codebook), 0.1, 0.0, None, 4)),
    ):
        torch.library.opcheck(op.default, args)


def test_fullgraph_without_recompiles(kernel):
    codebook, buffers, states = appended()
    twin = buffers.clone()

    def step(states, *tensors):
        kernel.append(states, states * 2, tensors[0], None, *tensors[1:], *cases.write_args(codebook))
        keys, values = kernel.dequantize(tensors[0], None, *cases.read_args(codebook), 128, 0, 32, torch.float32)
        out, _ = kernel.decode_attention(states, tensors[0], None, *tensors[1:], *cases.read_args(codebook), 0.1)
        return (keys + values).sum() + out.float().sum()

    compiled = torch.compile(step, fullgraph=True)
    compiled(states, *buffers.tensors())
    step(states, *twin.tensors())
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(4):
            states = cases.random_states(2, 2, 1, 128, torch.bfloat16)
            got, want = compiled(states, *buffers.tensors()), step(states, *twin.tensors())
            # The same sum in another order of additions.
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-2)
    for got, want in zip(buffers.tensors(), twin.tensors(), strict=True):
        assert torch.equal(got, want)


def test_cuda_graph_with_growing_lengths(kernel):
    codebook, buffers, states = appended()
    twin = buffers.clone()
    static = states.clone()
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        spare = buffers.clone()
        kernel.append(static, static, *spare.arguments(), *cases.write_args(codebook))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernel.append(static, static, *buffers.arguments(), *cases.write_args(codebook))
    for _ in range(40):
        states = cases.random_states(2, 2, 1, 128, torch.bfloat16)
        static.copy_(states)
        graph.replay()
        kernel.append(states, states, *twin.arguments(), *cases.write_args(codebook))
    torch.cuda.synchronize()
    assert buffers.lengths.tolist() == [70, 70]
    assert buffers.quantized_lengths.tolist() == [50, 50]
    for got, want in zip(buffers.tensors(), twin.tensors(), strict=True):
        assert torch.equal(got, want)


def test_no_synchronization(kernel):
    codebook, buffers, states = appended()
    numbers = int32(0, 0), int32(1, 1), int32(0, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        kernel.append(states, states, *buffers.arguments(), *cases.write_args(codebook))
        kernel.quantize(states, states, buffers.codes, None, *numbers, *cases.write_args(codebook))
        kernel.dequantize(buffers.codes, None, *cases.read_args(codebook), 128, 0, 32, torch.bfloat16)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_two_builds_side_by_side(kernel):
    """python build_local.py --output _build/second --id 00000000 makes the second build."""
    if not variants("_build/second"):
        pytest.skip("no second build: run build_local.py --output _build/second --id 00000000")
    other = load("_build/second")
    assert other is not kernel
    codebook, buffers, states = appended()
    twin = buffers.clone()
    kernel.append(states, states, *buffers.arguments(), *cases.write_args(codebook))
    torch.compile(other.append, fullgraph=True)(states, states, *twin.arguments(), *cases.write_args(codebook))
    for got, want in zip(buffers.tensors(), twin.tensors(), strict=True):
        assert torch.equal(got, want)
