# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""ops/kernels.py: every tensor reaches the kernels under its own name, and a compiled step calls them directly."""

import ast
import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cache_oracle import filled_buffers
from tiny_codebooks import random_layer

from vecinfer_hf.errors import BackendError
from vecinfer_hf.ops import kernel_loader, kernels, reference
from vecinfer_hf.ops.backend import backend
from vecinfer_hf.ops.types import CacheBuffers, LayerCodebook, PagedBuffers
from vecinfer_hf.quantization.formats import parse_format


TORCH_EXT = Path(__file__).parents[2] / "hub_kernels" / "vecinfer-attention" / "torch-ext"


def wrapper_parameters():
    """Parameter names of the kernels' Python functions."""
    tree = ast.parse((TORCH_EXT / "vecinfer_attention" / "__init__.py").read_text())
    return {node.name: [a.arg for a in node.args.args] for node in tree.body if isinstance(node, ast.FunctionDef)}


def schemas():
    """The operators' schemas, as the binding registers them."""
    definitions = re.findall(r"ops\.def\(((?:\s*\"[^\"]*\")+)\)", (TORCH_EXT / "torch_binding.cpp").read_text())
    return ["".join(re.findall(r'"([^"]*)"', parts)) for parts in definitions]


def schema_parameters():
    """Parameter names of the operators' schemas."""
    found = {}
    for schema in schemas():
        name, parameters = re.match(r"(\w+)\((.*)\) ->", schema).groups()
        found[name] = [parameter.split()[-1] for parameter in parameters.split(", ")]
    return found


def test_wrappers_and_schemas_have_the_same_parameters():
    assert schema_parameters() == wrapper_parameters()
    assert sorted(schema_parameters()) == sorted(kernel_loader.OPERATORS)


@pytest.fixture
def install(monkeypatch):
    """Let functions stand for the compiled operators."""

    def run(**operators):
        found = kernel_loader._Found(SimpleNamespace(**operators), ())
        monkeypatch.setattr(kernel_loader, "_found", found)

    return run


def test_every_tensor_arrives_under_its_own_name(install):
    names, got = wrapper_parameters(), {}

    def operator(name):
        return lambda *args: got.update(dict(zip(names[name], args, strict=True)))

    install(**{name: operator(name) for name in names})
    ring = torch.zeros(1, 2, 3, 5)
    buffers = PagedBuffers(*[torch.zeros(1) for _ in range(4)], ring, *[torch.zeros(1) for _ in range(3)])
    codebook = LayerCodebook(*[torch.zeros(1) for _ in range(10)])
    key_states, value_states, query = torch.zeros(3, 1, 2, 3, 4)
    starts, counts, first = torch.zeros(3, 1, dtype=torch.int32)
    given = buffers._asdict() | codebook._asdict()

    def check(**others):
        assert {name: id(value) for name, value in got.items()} == {name: id((given | others)[name]) for name in got}
        got.clear()

    kernels.quantize(key_states, value_states, buffers, starts, counts, first, codebook)
    check(key_states=key_states, value_states=value_states, starts=starts, counts=counts, first=first)
    kernels.append(key_states, value_states, buffers, codebook)
    check(key_states=key_states, value_states=value_states)
    scale, cap, logits = 0.5, 30.0, torch.zeros(2)
    kernels.decode_attention(query, buffers, codebook, scale, cap, logits, 4)
    check(query=query, softmax_scale=scale, softcap=cap, sink_logits=logits, num_splits=4)
    kernels.dequantize(buffers, codebook, 3, 7, torch.float16)
    check(value_head_dim=5, start=3, length=7, dtype=torch.float16)


def test_states_are_made_contiguous_and_logits_float32(install):
    got = []
    install(append=lambda *args: got.append(args), decode_attention=lambda *args: got.append(args))
    states = torch.zeros(1, 2, 3, 4)
    buffers, codebook = CacheBuffers(*[torch.zeros(1)] * 7), LayerCodebook(*[torch.zeros(1)] * 10)
    kernels.append(states.transpose(2, 3), states, buffers, codebook)
    assert got[0][0].stride(-1) == 1
    kernels.decode_attention(states, buffers, codebook, 0.5, 0.0, torch.zeros(2, dtype=torch.bfloat16))
    assert got[1][-2].dtype == torch.float32


def test_without_kernels_a_call_says_where_they_were_looked_for(monkeypatch):
    candidate = kernel_loader.KernelCandidate("VECINFER_KERNEL_PATH", False, "not set")
    monkeypatch.setattr(kernel_loader, "_found", kernel_loader._Found(None, (candidate,)))
    buffers, codebook = CacheBuffers(*[torch.zeros(1, 1, 1, 1)] * 7), LayerCodebook(*[torch.zeros(1)] * 10)
    with pytest.raises(BackendError, match=r"No compiled kernels were found \(VECINFER_KERNEL_PATH: not set"):
        kernels.dequantize(buffers, codebook, 0, 1, torch.float32)


NAMESPACE = "vecinfer_test_kernels"
OPS_PY = f"""import torch

ops = torch.ops.{NAMESPACE}


def add_op_namespace_prefix(name):
    return f"{NAMESPACE}::{{name}}"
"""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """The kernels' own Python files over operators with their schemas and the reference's arithmetic."""
    library = torch.library.Library(NAMESPACE, "DEF")
    for schema in schemas():
        library.define(schema)

    def split(args):
        """Buffers and codebook from the operators' order; one transform of a side stands for both directions."""
        codes, table, *exact = args[:8]
        mean, transform, centroids, scale, value_mean, value_transform, value_centroids, value_scale = args[8:16]
        keys, values = (mean, transform, transform), (value_mean, value_transform, value_transform)
        codebook = LayerCodebook(*keys, centroids, scale, *values, value_centroids, value_scale)
        return CacheBuffers(codes, *exact) if table is None else PagedBuffers(codes, *exact, table), codebook

    def append(keys, values, *args):
        reference.append(keys, values, *split(args))

    def decode_attention(query, *args):
        return reference.decode_attention(query, *split(args), *args[16:])

    library.impl("append", append, "CPU")
    library.impl("decode_attention", decode_attention, "CPU")
    place = tmp_path_factory.mktemp("kernels") / NAMESPACE
    shutil.copytree(TORCH_EXT / "vecinfer_attention", place)
    (place / "_ops.py").write_text(OPS_PY)
    spec = importlib.util.spec_from_file_location(NAMESPACE, place / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAMESPACE] = module
    spec.loader.exec_module(module)
    yield module
    library._destroy()
    for name in [name for name in sys.modules if name.split(".")[0] == NAMESPACE]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["cuda", "cpu", "reference"])
def test_a_compiled_step_calls_the_backend_s_own_operators(name, monkeypatch, stand_in):
    """One graph, no recompilation while lengths grow, and nothing of ours between the graph and the kernels."""
    monkeypatch.setattr(kernel_loader, "_found", kernel_loader._Found(stand_in, ()))
    codebook = random_layer(2, 16, kind="matrix")
    states = torch.randn(2, 3, 2, 60, 16)
    eager, compiled = (filled_buffers(codebook, *states, [60, 11, 3], 4, 8) for _ in range(2))
    graphs = []

    def record(graph, inputs):
        graphs.append(graph)
        return graph

    def step(keys, values, query, buffers):
        operators = backend(name)
        operators.append(keys, values, buffers, codebook)
        return operators.decode_attention(query, buffers, codebook, 0.25, 0.0, None)[0] * 2

    torch._dynamo.reset()
    fast = torch.compile(step, fullgraph=True, backend=record)
    for _ in range(4):
        keys, values, query = torch.randn(3, 3, 2, 1, 16)
        query = query.repeat(1, 2, 1, 1)
        # The stand-in has one transform, so both run through it.
        assert torch.equal(fast(keys, values, query, compiled), step(keys, values, query, eager))
    for first, second in zip(compiled, eager, strict=True):
        assert torch.equal(first, second)
    assert len(graphs) == 1
    called = {str(node.target) for node in graphs[0].graph.nodes if "vecinfer" in str(node.target)}
    own = {f"{NAMESPACE}.append", f"{NAMESPACE}.decode_attention"}
    if name == "reference":
        own = {"vecinfer.append_reference.default", "vecinfer.decode_attention_reference.default"}
    assert called == own


def test_fake_operators_give_the_shapes_of_both_head_sizes(stand_in):
    codebook = random_layer(2, 16, value_dim=32)
    buffers = filled_buffers(codebook, torch.randn(1, 2, 50, 16), torch.randn(1, 2, 50, 32), [50], 4, 8)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = CacheBuffers(*(mode.from_tensor(tensor) for tensor in buffers))
        args = [mode.from_tensor(x) if x is not None else None for x in kernels._reading(codebook)]
        query = torch.empty(1, 4, 3, 16, dtype=torch.bfloat16)
        out, lse = stand_in.decode_attention(query, *kernels._flat(fake), *args, 0.1)
        keys, values = stand_in.dequantize(fake.codes, None, *args, 32, 3, 7, torch.float16)
        table = torch.zeros(5, 2, dtype=torch.int32)
        paged_keys, _ = stand_in.dequantize(fake.codes, table, *args, 32, 3, 7, torch.float16)
    assert (out.shape, out.dtype, lse.shape, lse.dtype) == ((1, 4, 3, 32), torch.bfloat16, (1, 4, 3), torch.float32)
    assert (keys.shape, values.shape, keys.dtype) == ((1, 2, 7, 16), (1, 2, 7, 32), torch.float16)
    assert paged_keys.shape == (5, 2, 7, 16)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"key_head_dim": 72, "value_head_dim": 72}, "head_dim 72 is not compiled; 64, 80, 96, 128, 256 are"),
        ({"value_head_dim": 64}, "values have head_dim 64 and keys 128; the compiled kernels need equal ones"),
        ({"group": 17}, "17 query heads per key/value head are not supported; 1 to 16 are"),
        ({"dtype": torch.float32}, "torch.float32 is not supported"),
        ({"device": torch.device("cpu")}, "need a CUDA device, not cpu"),
        ({"capability": (7, 5)}, "compute capability 7.5 is too low"),
        ({}, None),
    ],
)
def test_why_unsupported(monkeypatch, change, reason):
    asked = {"key_head_dim": 128, "value_head_dim": 128, "group": 4, "dtype": torch.bfloat16}
    asked |= {"device": torch.device("cuda"), "key_format": parse_format(2), "value_format": parse_format(4)} | change
    capability = asked.pop("capability", (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *args: capability)
    answer = kernels.why_unsupported(**asked)
    assert answer is None if reason is None else reason in answer
