# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The decode steps of a growing cache of codes, recorded as one CUDA graph without compiling anything.

The host takes four times longer to launch the kernels of an 8B model's step one by one than the GPU takes to run them.
Owns the recording and the choice of what is recorded; cache/recorded_step.py owns the cache's part, cuda_graph.py the
compiled steps of a static cache.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..cache.cache import VecInferCache
from ..cache.recorded_step import RecordedStep, layers_not_recorded, recording_problem
from ..cache.static_layer import VecInferStaticLayer
from .compat import CACHE_ARGUMENT
from .cuda_graph import CapturedCall, joined, model_problem, split


logger = logging.get_logger(__name__)

_MASK = "attention_mask"


def records(model: PreTrainedModel, cache: Any) -> bool:
    """Return whether `generate` shall record the decode steps of `model` with `cache`, a growing cache of codes.

    What cannot be recorded runs as any model does, and one line says why.
    """
    if not isinstance(cache, VecInferCache) or model.device.type != "cuda":
        return False
    if any(isinstance(layer, VecInferStaticLayer) for layer in cache.layers):
        return False
    problem = _problem(model, cache)
    if problem is not None:
        logger.warning_once(
            f"vecinfer: decode steps of {type(model).__name__} are launched kernel by kernel, since {problem}."
        )
    return problem is None


def _problem(model: PreTrainedModel, cache: VecInferCache) -> str | None:
    """Return why no decode step of this call can be recorded, or None; a cache may still be empty."""
    others = layers_not_recorded(cache)
    if others:
        return f"layers {others} keep transformers' own cache"
    if any(layer.ops_backend == "reference" for layer in cache.quantized_layers):
        return 'ops_backend is "reference"'
    if getattr(model, "_hf_hook", None) is not None:
        return "accelerate moves its tensors"
    if getattr(model, "_tp_size", None):
        return "it is spread over several processes"
    return model_problem(model)


class RecordedDecode:
    """What `generate` calls instead of a model, for the length of one `generate`.

    The first decode step of one token runs as usual, the second is recorded, and from then on steps are replayed. A
    step is recorded again when the cache's buffers have grown. Everything else goes to the model.

    Args:
        model: the model.
        capture: makes an empty recording; a CUDA graph.
    """

    def __init__(self, model: PreTrainedModel, capture: type[CapturedCall] = CapturedCall):
        self.model = model
        self._capture = capture
        self._warm: Any = None
        """The cache of the last step that ran as usual."""
        self._key: tuple = ()
        self._step: RecordedStep | None = None
        self._call: CapturedCall | None = None
        self._given_up = False

    def __call__(self, **inputs):
        cache = inputs.get(CACHE_ARGUMENT)
        if self._given_up or not _is_decode_step(inputs):
            return self.model(**inputs)
        if cache is not self._warm:
            self._warm = cache
            return self.model(**inputs)
        # generate extends the mask of the step before by a token in each row, which the cache knows.
        inputs = {**inputs, _MASK: None}
        tensors, constants = split(inputs)
        key = (id(cache), constants, tuple((name, t.shape, t.dtype, t.device) for name, t in tensors.items()))
        if key != self._key or self._step is None or not self._step.fits():
            self._step = self._call = None  # frees its memory
            problem = recording_problem(cache)
            if problem is None:
                problem = self._record(cache, inputs, tensors)
                self._given_up = problem is not None
            if problem is not None:
                logger.warning_once(
                    f"vecinfer: a decode step of {type(self.model).__name__} is launched kernel by kernel, since "
                    f"{problem}."
                )
                return self.model(**inputs)
            self._key = key
        self._step.replay(lambda: self._call.replay(tensors))
        return self._call.output

    def _record(self, cache: VecInferCache, inputs: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str | None:
        """Record a step without running it; return why that failed, or None."""
        if any(layer.ops_name != self._capture.ops_name for layer in cache.quantized_layers):
            return "its operators are torch's, not compiled kernels"
        step, call = RecordedStep(cache), self._capture()
        try:
            with step.recording():
                call.capture(lambda buffers: self.model(**joined(inputs, buffers)), tensors)
        except RuntimeError as error:
            # Recording runs nothing, so the step is still to be done, and the cache is as it was.
            return f"it cannot be recorded as a CUDA graph ({str(error).strip().splitlines()[0]})"
        self._step, self._call = step, call
        return None


def _is_decode_step(inputs: dict[str, Any]) -> bool:
    """Return whether a call stores one token in each row of a cache of codes and returns logits alone."""
    ids, mask = inputs.get("input_ids"), inputs.get(_MASK)
    return (
        isinstance(inputs.get(CACHE_ARGUMENT), VecInferCache)
        and ids is not None
        and ids.shape[1] == 1
        and (mask is None or (isinstance(mask, torch.Tensor) and mask.dim() == 2))
        and not torch.is_grad_enabled()
        # A replayed step writes its output over the last one's; generate takes copies of the logits alone.
        and not inputs.get("output_hidden_states")
        and not inputs.get("output_attentions")
    )
