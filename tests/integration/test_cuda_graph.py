# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""cuda_graph.py: one CUDA graph per decode step; the same logits as the dynamic cache without it."""

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import StaticCache

from vecinfer_hf import VecInferCache, enable
from vecinfer_hf.integration import cuda_graph as module
from vecinfer_hf.integration.compat import cache_argument


def static_cache(model, size=64):
    return VecInferCache(model.config, random_codebook(model.config), static=True, max_cache_len=size)


def test_inputs_are_taken_apart_and_put_together():
    cache, mask = object(), torch.ones(1, 1)
    inputs = {"input_ids": torch.zeros(1, 1), "attention_mask": {"a": mask, "b": None}, "flag": True, "cache": cache}
    tensors, constants = module.split(inputs)
    assert list(tensors) == ["input_ids", "attention_mask/a"]
    assert module.joined(inputs, tensors) == inputs
    moved = module.joined(inputs, {name: tensor.clone() for name, tensor in tensors.items()})
    assert moved["attention_mask"]["a"] is not mask
    assert moved["cache"] is cache
    # Whatever is no tensor is compiled in, so a change of it is another step.
    assert module.split({**inputs, "flag": False})[1] != constants
    assert module.split({**inputs, "attention_mask": None})[1] != constants


def test_on_a_cpu_transformers_decides():
    model = tiny_model("llama")
    call = module.decode_call(model, None, lambda **inputs: "compiled")
    assert not isinstance(call, module.DecodeGraphs)
    assert call(input_ids=tiny_inputs(1, 1), **cache_argument(static_cache(model))) == "compiled"
    assert "on cpu" in module.graph_problem(model, static_cache(model))


def test_several_tokens_over_codes_are_not_compiled():
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    call = module.decode_call(model, None, lambda **inputs: "compiled")
    ids, cache = tiny_inputs(1, 3), static_cache(model)
    with torch.no_grad():
        output = call(input_ids=ids, **cache_argument(cache))
    assert output.logits.shape == (1, 3, 97)
    assert cache.get_seq_length() == 3
    assert call(input_ids=ids, **cache_argument(StaticCache(config=model.config, max_cache_len=64))) == "compiled"


class OnCuda:
    """What `graph_problem` looks at of a model on a GPU."""

    device = torch.device("cuda")

    def __init__(self, config, device_map=None):
        self.config = config
        self.hf_device_map = device_map or {}


def test_what_cannot_be_captured():
    model = tiny_model("llama")
    here = OnCuda(model.config)
    assert module.graph_problem(here, static_cache(model)) is None
    dynamic = VecInferCache(model.config, random_codebook(model.config))
    for cache in (dynamic, StaticCache(config=model.config, max_cache_len=64), None):
        assert "static VecInfer cache" in module.graph_problem(here, cache)
    assert "several devices" in module.graph_problem(OnCuda(model.config, {"a": 0, "b": 1}), static_cache(model))
    hybrid = tiny_model("gemma3")
    # Sliding layers count their tokens on the host.
    assert "not every layer" in module.graph_problem(OnCuda(hybrid.config), static_cache(hybrid))
    model.config.rope_parameters = {"rope_type": "longrope", "rope_theta": 1e4}
    assert "longrope" in module.graph_problem(here, static_cache(model))


class Force(LogitsProcessor):
    """Makes generate choose given tokens, so that two runs see the same text."""

    def __init__(self, tokens, prompt):
        self.tokens, self.prompt = tokens, prompt

    def __call__(self, input_ids, scores):
        wanted = self.tokens[:, input_ids.shape[1] - self.prompt]
        return torch.full_like(scores, -1e9).scatter(1, wanted[:, None].to(scores.device), 0.0)


def logits(model, inputs, tokens, static, **kwargs):
    """Raw logits `[steps, B, vocabulary]` of a generate that is made to choose `tokens`, and its output."""
    output = model.generate(
        **inputs,
        max_new_tokens=tokens.shape[1],
        do_sample=False,
        cache_implementation="vecinfer",
        cache_config={"residual_length": 32, "static": static},
        logits_processor=LogitsProcessorList([Force(tokens, inputs["input_ids"].shape[1])]),
        output_logits=True,
        return_dict_in_generate=True,
        **kwargs,
    )
    return torch.stack(output.logits), output


@pytest.fixture(params=["llama", "qwen3", "gpt_oss"])
def gpu_model(request):
    torch._dynamo.reset()
    model = tiny_model(request.param, head_dim=64).to("cuda", torch.bfloat16)
    enable(model, random_codebook(model.config))
    return model


def rms(tensor):
    return tensor.float().square().mean().sqrt()


@pytest.mark.gpu
@pytest.mark.parametrize("padded", [False, True])
def test_replayed_steps_give_the_logits_of_steps_that_are_run(gpu_model, padded, monkeypatch):
    replays, graphs = [], []
    torch._dynamo.utils.counters.clear()
    replay = module.CapturedCall.replay
    monkeypatch.setattr(module.CapturedCall, "replay", lambda *args: replays.append(1) or replay(*args))
    tokens = tiny_inputs(2, 48, seed=3)
    for length in (70, 33):  # two calls, two prompt lengths
        ids = tiny_inputs(2, length)
        mask = torch.ones_like(ids)
        mask[0, : 7 * padded] = 0
        inputs = {"input_ids": (ids * mask).cuda(), "attention_mask": mask.cuda()}
        found, _ = logits(gpu_model, inputs, tokens, static=True)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        with monkeypatch.context() as patch:
            patch.setattr(module, "graph_problem", lambda *_: "this test wants steps that are run")
            wanted, _ = logits(gpu_model, inputs, tokens, static=True)
        # The same kernels, so equal but for what a matrix product in a graph may round otherwise: one bfloat16 step.
        assert rms(found - wanted) <= 2**-8 * rms(wanted)
        eager, _ = logits(gpu_model, inputs, tokens, static=False)
        stock = gpu_model.generate(
            **inputs,
            cache_implementation="dynamic",
            max_new_tokens=tokens.shape[1],
            do_sample=False,
            logits_processor=LogitsProcessorList([Force(tokens, length)]),
            output_logits=True,
            return_dict_in_generate=True,
        )
        # Compiled layers round elsewhere, and a rounding may pick another centroid; quantizing itself costs far more.
        assert rms(found - eager) <= 0.25 * rms(eager - torch.stack(stock.logits))
    if gpu_model.config.model_type != "gpt_oss":
        # Another prompt length compiles nothing: the one more graph is that of the steps run without a CUDA graph.
        assert graphs == [1, graphs[1]]
        assert graphs[1] <= 2
    # All but the prompt's token and the first step, of the compiled and of the growing cache, in two calls; sliding
    # layers keep transformers' own graphs.
    assert len(replays) == (0 if gpu_model.config.model_type == "gpt_oss" else 2 * 2 * 46)


@pytest.mark.gpu
def test_what_generate_returns_survives_the_next_step():
    torch._dynamo.reset()
    model = tiny_model("llama", head_dim=64).to("cuda", torch.bfloat16)
    enable(model, random_codebook(model.config))
    inputs = {"input_ids": tiny_inputs(1, 40).cuda()}
    tokens = tiny_inputs(1, 20, seed=3)
    found, output = logits(model, inputs, tokens, static=True, output_hidden_states=True)
    wanted, other = logits(model, inputs, tokens, static=False, output_hidden_states=True)
    for ours, theirs in zip(output.hidden_states[1:], other.hidden_states[1:], strict=True):
        # 2 layers of a few bfloat16 roundings each; hidden states of another step would differ by their own size.
        assert rms(ours[-1].float() - theirs[-1].float()) <= 0.1 * rms(theirs[-1])
    assert len({tuple(step.flatten().tolist()) for step in found}) > 1


@pytest.mark.gpu
def test_a_model_that_looks_at_its_tensors_runs_without_a_graph(caplog):
    torch._dynamo.reset()
    model = tiny_model("llama", head_dim=64).to("cuda", torch.bfloat16)
    enable(model, random_codebook(model.config))
    inputs = {"input_ids": tiny_inputs(1, 40).cuda()}
    tokens = tiny_inputs(1, 20, seed=3)
    wanted, _ = logits(model, inputs, tokens, static=True)
    # torch.compile does not look again whether a model has hooks.
    torch._dynamo.reset()
    seen = []
    model.model.layers[0].mlp.register_forward_hook(lambda *call: seen.append(float(call[2].sum())))
    found, _ = logits(model, inputs, tokens, static=True)
    assert len(seen) >= 20
    assert "cannot be recorded as a CUDA graph" in caplog.text
    # Compiled in more pieces, so rounded elsewhere.
    assert rms(found - wanted) <= 0.1 * rms(wanted)
