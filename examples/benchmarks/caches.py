# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The caches that are compared, and how to fill one with random tokens in no time.

A prompt of a million tokens takes minutes to read, and what a decode step costs does not depend on the numbers in the
cache; so decode steps are timed on caches that are filled with random numbers. Prompts are timed for themselves.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, QuantizedCache, StaticCache

from vecinfer_hf.cache.cache import VecInferCache
from vecinfer_hf.distributed.heads import head_shard
from vecinfer_hf.evaluation.random_models import random_codebook
from vecinfer_hf.integration.attention_switch import use_vecinfer_attention
from vecinfer_hf.model_info import head_shapes, text_config
from vecinfer_hf.quantization.packing import TILE


@dataclass(frozen=True)
class CacheKind:
    """One kind of cache.

    Args:
        name: how it is called in tables.
        bits: bits per element of VecInfer's codes, or None for transformers' own caches.
        static: sized once; generate then compiles the decode step.
        backend: the backend of transformers' own QuantizedCache and its options, or None.
    """

    name: str
    bits: float | str | None = None
    static: bool = False
    backend: tuple[str, dict[str, int]] | None = None

    def make(self, model: PreTrainedModel, tokens: int) -> Cache:
        """Return an empty cache with room for `tokens` tokens, and switch the model to the attention it needs."""
        if self.bits is None:
            model.set_attn_implementation("sdpa")
            inner = text_config(model.config)
            if self.backend is not None:
                package = _PACKAGES[self.backend[0]]
                if not _installed(package):
                    raise ImportError(f"it needs {package} (pip install {package})")
                return QuantizedCache(self.backend[0], inner, **self.backend[1])
            return StaticCache(config=inner, max_cache_len=tokens) if self.static else DynamicCache(config=inner)
        use_vecinfer_attention(model)
        options = {"static": True, "max_cache_len": tokens} if self.static else {}
        return VecInferCache(model.config, _codebook(model, self.bits), **options)


_PACKAGES = {"quanto": "optimum-quanto", "hqq": "hqq"}
"""What a backend of QuantizedCache needs."""


def _installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


STOCK = CacheKind("stock")
STOCK_STATIC = CacheKind("stock static", static=True)
STOCK_QUANTIZED = (
    CacheKind("quanto 4 bits", backend=("quanto", {"nbits": 4})),
    CacheKind("quanto 2 bits", backend=("quanto", {"nbits": 2})),
    CacheKind("hqq 4 bits", backend=("hqq", {"nbits": 4, "axis_key": 1, "axis_value": 1})),
    CacheKind("hqq 2 bits", backend=("hqq", {"nbits": 2, "axis_key": 1, "axis_value": 1})),
)
"""transformers' own quantized caches. What they need is optional, and not every version works with every other."""


def vecinfer(bits: float | str, static: bool = True) -> CacheKind:
    """Return the kind of a VecInfer cache."""
    return CacheKind(f"vecinfer {bits} bits" + ("" if static else ", not compiled"), bits, static)


def _codebook(model: PreTrainedModel, bits: float | str):
    # One per model: its tensors are moved to the device once.
    known = model.__dict__.setdefault("_vecinfer_random_codebooks", {})
    if bits not in known:
        known[bits] = random_codebook(model.config, bits)
    return known[bits]


@torch.no_grad()
def fill_randomly(cache: Cache, model: PreTrainedModel, batch_size: int, tokens: int) -> None:
    """Make every layer of an empty cache hold `tokens` random tokens in each of `batch_size` rows.

    Under tensor parallelism each process fills its own heads.
    """
    heads, dim, _ = next(iter(head_shapes(model.config).values()))
    heads //= head_shard(model).size
    for layer in cache.layers:
        if isinstance(cache, VecInferCache):
            _fill_codes(layer, model.dtype, model.device, (batch_size, heads, tokens, dim))
            continue
        if isinstance(cache, QuantizedCache):
            layer.update(*torch.randn(2, batch_size, heads, tokens, dim, dtype=model.dtype, device=model.device))
            continue
        empty = torch.zeros(batch_size, heads, 0, dim, dtype=model.dtype, device=model.device)
        layer.lazy_initialization(empty, empty)
        if isinstance(cache, StaticCache):
            layer.keys.normal_()
            layer.values.normal_()
        else:
            shape = (batch_size, heads, tokens, dim)
            layer.keys = torch.empty(shape, dtype=model.dtype, device=model.device).normal_()
            layer.values = torch.empty(shape, dtype=model.dtype, device=model.device).normal_()
        _set_length(layer, tokens)


def _fill_codes(layer, dtype: torch.dtype, device: torch.device, shape: tuple[int, int, int, int]) -> None:
    batch, heads, tokens, dim = shape
    empty = torch.zeros(batch, heads, 0, dim, dtype=dtype, device=device)
    if not layer.is_initialized:
        layer.lazy_initialization(empty, empty)
    coded = max(tokens - layer.sink_length - layer.residual_length, 0)
    storage = layer.storage
    storage.reserve([tokens] * batch, ([0] * batch, [0] * batch))
    storage.buffers.codes[:, :, : -(-coded // TILE)].random_(0, 256)
    for exact in storage.buffers[1:5]:
        exact.normal_()
    storage._write_lengths([tokens] * batch, [coded] * batch)
    layer._set_columns(tokens)


def _set_length(layer, tokens: int) -> None:
    if isinstance(getattr(layer, "cumulative_length", None), torch.Tensor):
        layer.cumulative_length.fill_(tokens)
    elif hasattr(layer, "cumulative_length"):
        layer.cumulative_length = tokens
