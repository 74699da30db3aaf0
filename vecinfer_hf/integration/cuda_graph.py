# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""One CUDA graph for a whole compiled decode step of a static VecInfer cache, replayed once per token.

transformers' own way ("reduce-overhead") checks a thousand guards before every token, which on an 8B model takes the
host longer than reading a long cache of codes takes the GPU. Here the checks are made once per `generate`: within one
call neither the model nor the cache's buffers change. Owns the capture; static_layer.py owns what is captured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..cache.cache import VecInferCache
from ..cache.static_layer import VecInferStaticLayer
from ..model_info import text_config
from .compat import CACHE_ARGUMENT


logger = logging.get_logger(__name__)

_MOVING_ROPE = ("dynamic", "longrope")
"""Rotary embeddings that choose their frequencies on the host, by the length so far."""


def graph_problem(model: PreTrainedModel, cache: Any) -> str | None:
    """Return why the decode steps of `model` with `cache` cannot be one CUDA graph of ours, or None if they can."""
    if not isinstance(cache, VecInferCache) or not all(isinstance(x, VecInferStaticLayer) for x in cache.layers):
        return "not every layer has a static VecInfer cache"
    return model_problem(model)


def model_problem(model: PreTrainedModel) -> str | None:
    """Return why the decode steps of `model` cannot be one CUDA graph, whatever its cache, or None if they can."""
    if model.device.type != "cuda":
        return f"the model is on {model.device.type}"
    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        return "the model is spread over several devices"
    rope = getattr(text_config(model.config), "rope_parameters", None) or {}
    kinds = {rope.get("rope_type"), *(entry.get("rope_type") for entry in rope.values() if isinstance(entry, dict))}
    if kinds & set(_MOVING_ROPE):
        return f"its rotary embedding ({', '.join(sorted(kinds & set(_MOVING_ROPE)))}) depends on the length"
    return None


class DecodeGraphs:
    """What `generate` calls instead of a compiled model, for the length of one `generate`.

    The first decode step runs compiled, the second is captured, and from then on steps are replayed. What is no decode
    step of a static VecInfer cache goes to `fallback`.

    Args:
        model: the model.
        compiled: the model's forward, compiled without CUDA graphs.
        fallback: what transformers would have called.
    """

    def __init__(self, model: PreTrainedModel, compiled: Callable, fallback: Callable):
        self.model = model
        self.compiled = compiled
        self.fallback = fallback
        self._steps: dict[tuple, CapturedCall] = {}
        self._given_up = False
        self._fit: Any = None
        """The cache that was looked at last and can be captured."""

    def __call__(self, **inputs):
        cache = inputs.get(CACHE_ARGUMENT)
        ids = inputs.get("input_ids")
        if self._given_up:
            return self.compiled(**inputs)
        if cache is not self._fit:
            self._fit = cache if graph_problem(self.model, cache) is None else None
        if ids is None or self._fit is None:
            return self.fallback(**inputs)
        if ids.shape[1] != 1:
            # A chunk of the prompt or guessed tokens: their attention looks at the host, so compiling gains nothing.
            return self.model(**inputs)
        if inputs.get("output_hidden_states") or inputs.get("output_attentions") or torch.is_grad_enabled():
            # A replayed step writes its output over the last one's; generate takes copies of the logits alone.
            return self.compiled(**inputs)
        tensors, constants = split(inputs)
        key = (id(cache), constants, tuple((name, t.shape, t.dtype, t.device) for name, t in tensors.items()))
        step = self._steps.get(key)
        if step is None:
            self._steps[key] = CapturedCall()
            return self.compiled(**inputs)
        if step.graph is None:
            try:
                step.capture(lambda buffers: self.compiled(**joined(inputs, buffers)), tensors)
            except RuntimeError as error:
                # Recording runs nothing, so the step is still to be done, and the cache is as it was.
                self._given_up = True
                reason = str(error).strip().split("\n")[0]
                logger.warning_once(
                    f"vecinfer: the decode step of {type(self.model).__name__} cannot be recorded as a CUDA graph "
                    f"({reason}), so it runs compiled, but slower. A forward hook that reads tensors is one cause."
                )
                return self.compiled(**inputs)
        return step.replay(tensors)


class CapturedCall:
    """A call that was recorded as a CUDA graph: its input buffers, its graph and its output."""

    ops_name = "cuda"
    """The operators that can be recorded; torch's look at the host."""

    def __init__(self):
        self.graph: torch.cuda.CUDAGraph | None = None
        self.buffers: dict[str, torch.Tensor] = {}
        self.output: Any = None

    def capture(self, call: Callable[[dict[str, torch.Tensor]], Any], tensors: dict[str, torch.Tensor]) -> None:
        """Record `call` on copies of `tensors` without running it."""
        self.buffers = {name: tensor.clone() for name, tensor in tensors.items()}
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.output = call(self.buffers)
        self.graph = graph

    def replay(self, tensors: dict[str, torch.Tensor]) -> Any:
        """Run the recorded call on new inputs and return its output, which the next replay overwrites."""
        for name, buffer in self.buffers.items():
            buffer.copy_(tensors[name])
        self.graph.replay()
        return self.output


def split(inputs: dict[str, Any]) -> tuple[dict[str, torch.Tensor], tuple]:
    """Return the tensors among the inputs (those in dictionaries, too) by name, and a key of everything else."""
    tensors, constants = {}, []
    for name, value in inputs.items():
        entries = value.items() if isinstance(value, dict) else ((None, value),)
        for entry, item in entries:
            path = name if entry is None else f"{name}/{entry}"
            if isinstance(item, torch.Tensor):
                tensors[path] = item
            else:
                constants.append((path, id(item) if hasattr(item, "__dict__") else repr(item)))
    return tensors, tuple(constants)


def joined(inputs: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return the inputs with the tensors of `split` in their places."""
    joined = {}
    for name, value in inputs.items():
        if isinstance(value, dict):
            joined[name] = {entry: tensors.get(f"{name}/{entry}", item) for entry, item in value.items()}
        else:
            joined[name] = tensors.get(name, value)
    return joined


def _compiled_for_single_tokens(model: PreTrainedModel, compiled: Callable) -> Callable:
    """Return a call of `compiled`, but of `model` itself where several tokens attend over codes.

    Such tokens (a chunk of the prompt, the guesses of assisted generation) look at the host in every layer. The pieces
    in which they would be compiled share one function since transformers 5.24, and use up what torch compiles of it.
    """

    def call(**inputs):
        ids = inputs.get("input_ids")
        if isinstance(inputs.get(CACHE_ARGUMENT), VecInferCache) and ids is not None and ids.shape[1] != 1:
            return model(**inputs)
        return compiled(**inputs)

    return call


def decode_call(model: PreTrainedModel, compile_config: Any, fallback: Callable) -> Callable:
    """Return what `generate` shall call for decode steps of a model whose attention is "vecinfer".

    Args:
        model: the model.
        compile_config: the user's CompileConfig, or None. Whoever gives one gets transformers' own way.
        fallback: what transformers would have called.
    """
    fallback = _compiled_for_single_tokens(model, fallback)
    if compile_config is not None or model.device.type != "cuda":
        return fallback
    # torch keeps compiled code with the function's code, so a later call compiles nothing.
    return DecodeGraphs(model, torch.compile(model.__call__), fallback)
