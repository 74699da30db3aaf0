# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""recorded_decode.py, recorded_step.py: replayed decode steps of a growing cache are the steps that would have run.

On a CPU a stand-in for the CUDA graph runs the recorded call at each replay, so everything but the graph is tested.
"""

import copy

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model

from vecinfer_hf import VecInferCache, enable
from vecinfer_hf.cache import recorded_step
from vecinfer_hf.integration import cuda_graph
from vecinfer_hf.integration import recorded_decode as module
from vecinfer_hf.integration.compat import CACHE_ARGUMENT, cache_argument, returned_cache


OPTIONS = {"residual_length": 16, "sink_length": 4}


class RunAtReplay:
    """A recording that keeps the call and runs it, as a recorded step does, at each replay."""

    ops_name = "reference"
    step = None
    """The `RecordedStep` that records."""
    calls = 0
    replays = 0

    def capture(self, call, tensors):
        type(self).calls += 1
        self.call = call
        self.recorded_by = type(self).step
        self.buffers = {name: tensor.clone() for name, tensor in tensors.items()}

    def replay(self, tensors):
        type(self).replays += 1
        for name, buffer in self.buffers.items():
            buffer.copy_(tensors[name])
        with self.recorded_by.recording():
            self.output = self.call(self.buffers)


@pytest.fixture
def recorded(monkeypatch):
    """Record decode steps on a CPU, with the stand-in; return its class."""

    class Recording(RunAtReplay):
        pass

    original = recorded_step.RecordedStep.recording

    def recording(step):
        Recording.step = step
        return original(step)

    monkeypatch.setattr(recorded_step.RecordedStep, "recording", recording)
    monkeypatch.setattr(recorded_step, "ROOM", 32)

    def compiled_call(model, compile_config=None):
        return module.RecordedDecode(model, Recording)

    monkeypatch.setattr("transformers.PreTrainedModel.get_compiled_call", compiled_call)
    monkeypatch.setattr(
        "transformers.generation.GenerationMixin._valid_auto_compile_criteria",
        lambda self, kwargs, config: isinstance(kwargs.get(CACHE_ARGUMENT), VecInferCache),
    )
    return Recording


def generated(model, ids, mask, tokens=90, **kwargs):
    output = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **kwargs,
    )
    return output.sequences, torch.stack(output.logits), returned_cache(output)


def same_layers(one, other):
    """Whether two caches hold the same tokens, bit by bit."""
    for mine, theirs in zip(one.layers, other.layers, strict=True):
        assert mine.get_seq_length() == theirs.get_seq_length()
        assert mine.storage.lengths() == theirs.storage.lengths() == mine.storage.read_device_lengths()
        for states, wanted in zip(mine.read(), theirs.read(), strict=True):
            assert torch.equal(states, wanted)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("family", ["llama", "qwen3", "olmo2"])
@pytest.mark.parametrize("length", [3, 40])
@pytest.mark.parametrize("padded", [False, True])
def test_replayed_steps_are_the_steps_that_would_have_run(family, length, padded, recorded, monkeypatch):
    model = tiny_model(family)
    enable(model, random_codebook(model.config), **OPTIONS)
    ids = tiny_inputs(2, length)
    mask = torch.ones_like(ids)
    mask[0, : 2 * padded] = 0
    sequences, logits, cache = generated(model, ids, mask)
    assert recorded.replays == 88  # all but the prompt's token and the first step
    assert 1 < recorded.calls < 10  # recorded again when the buffers have grown
    monkeypatch.undo()
    wanted_sequences, wanted, other = generated(model, ids, mask)
    assert torch.equal(sequences, wanted_sequences)
    assert torch.equal(logits, wanted)
    same_layers(cache, other)


def test_a_recorded_call_leaves_a_cache_that_goes_on(recorded, monkeypatch):
    model = tiny_model("llama")
    enable(model, random_codebook(model.config), **OPTIONS)
    ids, more = tiny_inputs(1, 40), tiny_inputs(1, 7, seed=5)

    def conversation():
        sequences, _, cache = generated(model, ids, torch.ones_like(ids), 30)
        cache.crop(-11)
        text = torch.cat([sequences[:, :-12], more], dim=1)
        sequences, logits, cache = generated(model, text, torch.ones_like(text), 30, **cache_argument(cache))
        return sequences, logits, copy.deepcopy(cache)

    found = conversation()
    assert recorded.replays == 2 * 28
    monkeypatch.undo()
    wanted = conversation()
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    same_layers(found[2], wanted[2])


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupted_replay_is_noticed(after, recorded, monkeypatch):
    model = tiny_model("llama")
    enable(model, random_codebook(model.config), **OPTIONS)
    ids = tiny_inputs(1, 40)
    cache = VecInferCache(model, random_codebook(model.config), **OPTIONS)
    replay = recorded.replay

    def interrupted(self, tensors):
        if self.replays == 9:
            if after:
                replay(self, tensors)
            raise KeyboardInterrupt
        return replay(self, tensors)

    monkeypatch.setattr(recorded, "replay", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generated(model, ids, torch.ones_like(ids), 30, **cache_argument(cache))
    monkeypatch.undo()
    cache.crop(0)
    columns = 40 + 1 + 9 + after
    assert {layer.get_seq_length() for layer in cache.layers} == {columns}
    whole, logits, _ = generated(model, ids, torch.ones_like(ids), 30)
    with torch.no_grad():
        output = model(whole[:, columns : columns + 1], **cache_argument(cache))
    assert torch.allclose(output.logits[:, -1], logits[columns - 39], atol=1e-5)


def test_what_cannot_be_recorded_says_why():
    model = tiny_model("llama")
    codebook = random_codebook(model.config)
    empty = VecInferCache(model, codebook)
    assert recorded_step.recording_problem(empty) == "the cache is empty"
    hybrid = tiny_model("gemma3")
    cache = VecInferCache(hybrid, random_codebook(hybrid.config))
    assert recorded_step.recording_problem(cache) == "layers [0] have no growing cache of codes"
    assert module._problem(hybrid, cache) == "layers [0] keep transformers' own cache"
    for options, problem in (({"residual_length": 0}, "residual_length is 0"),):
        cache = VecInferCache(model, codebook, **options)
        model.set_attn_implementation("vecinfer")
        with torch.no_grad():
            model(tiny_inputs(1, 5), **cache_argument(cache))
        assert recorded_step.recording_problem(cache) == problem
    online = VecInferCache(model, "online", residual_length=16)
    with torch.no_grad():
        model(tiny_inputs(1, 5), **cache_argument(online))
    assert "fitted" in recorded_step.recording_problem(online)
    assert not module.records(model, online)  # on a CPU kernels are called one by one
    assert module._problem(model, VecInferCache(model, codebook, ops_backend="reference")).startswith("ops_backend")


def test_a_model_that_cannot_be_recorded_is_run(recorded, monkeypatch, caplog):
    model = tiny_model("llama")
    enable(model, random_codebook(model.config), **OPTIONS)
    ids = tiny_inputs(1, 40)

    def refused(self, call, tensors):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(recorded, "capture", refused)
    monkeypatch.setattr(module.logger, "warning_once", module.logger.warning)
    found = generated(model, ids, torch.ones_like(ids), 10)
    assert caplog.text.count("operation not permitted when stream is capturing).") == 1
    assert recorded.replays == 0
    monkeypatch.undo()
    wanted = generated(model, ids, torch.ones_like(ids), 10)
    assert torch.equal(found[1], wanted[1])
    same_layers(found[2], wanted[2])


def test_guesses_and_hidden_states_run_as_ever(recorded, monkeypatch):
    model = tiny_model("llama")
    enable(model, random_codebook(model.config), **OPTIONS)
    ids = tiny_inputs(1, 40)
    generated(model, ids, torch.ones_like(ids), 8, output_hidden_states=True)
    assert recorded.replays == 0
    text = ids.repeat(1, 2)
    guessed, _, _ = generated(model, text, torch.ones_like(text), 12, prompt_lookup_num_tokens=3)
    monkeypatch.undo()
    wanted, _, _ = generated(model, text, torch.ones_like(text), 12, prompt_lookup_num_tokens=3)
    assert torch.equal(guessed, wanted)


def on_gpu(family, dtype=torch.bfloat16, **overrides):
    model = tiny_model(family, head_dim=64, **overrides).to("cuda", dtype)
    enable(model, random_codebook(model.config), **OPTIONS)
    return model


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen2", "olmo2", "phi3"])
@pytest.mark.parametrize("rows", [1, 3])
def test_on_a_gpu_tokens_and_codes_are_those_of_steps_that_are_launched(family, rows, monkeypatch):
    model, replays = on_gpu(family), []
    replay = cuda_graph.CapturedCall.replay
    monkeypatch.setattr(cuda_graph.CapturedCall, "replay", lambda *args: replays.append(1) or replay(*args))
    ids = tiny_inputs(rows, 150).cuda()
    mask = torch.ones_like(ids)
    mask[0, : 9 * (rows > 1)] = 0
    sequences, logits, cache = generated(model, ids, mask, 700)
    assert len(replays) == 698
    model.generation_config.disable_compile = True
    wanted_sequences, wanted, other = generated(model, ids, mask, 700)
    assert len(replays) == 698
    # The same kernels on the same numbers.
    assert torch.equal(sequences, wanted_sequences)
    assert torch.equal(logits, wanted)
    same_layers(cache, other)


@pytest.mark.gpu
def test_on_a_gpu_a_host_read_inside_the_model_ends_the_recording(monkeypatch, caplog):
    model = on_gpu("llama")
    monkeypatch.setattr(module.logger, "warning_once", module.logger.warning)
    model.model.norm.register_forward_hook(lambda module, args, output: output * float(output[0, 0, 0] * 0 + 1))
    ids = tiny_inputs(1, 40).cuda()
    found = generated(model, ids, torch.ones_like(ids), 20)
    assert "cannot be recorded as a CUDA graph" in caplog.text
    model.generation_config.disable_compile = True
    wanted = generated(model, ids, torch.ones_like(ids), 20)
    assert torch.equal(found[1], wanted[1])
    same_layers(found[2], wanted[2])


@pytest.mark.gpu
def test_on_a_gpu_sliding_layers_keep_their_launches(caplog, monkeypatch):
    monkeypatch.setattr(module.logger, "warning_once", module.logger.warning)
    model = on_gpu("gemma3")
    ids = tiny_inputs(1, 40).cuda()
    generated(model, ids, torch.ones_like(ids), 10)
    assert "layers [0] keep transformers' own cache" in caplog.text
