# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The block in which a model and its VecInfer caches are followed: what is wrapped, and how it is put back.

    model.set_attn_implementation("vecinfer")
    with following(model) as follower:
        cache = VecInferCache(model.config, codebook)
        model.generate(ids, **cache_argument(cache))      # raises Divergence where METHOD.md is not followed
        follower.audit(cache)                             # also compares what the cache holds

Wraps public things only: VecInferCache's methods, transformers' AttentionInterface.get_interface and model.forward.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from method_follower import Follower
from transformers import AttentionInterface, PreTrainedModel

from vecinfer_hf import VecInferCache


@contextlib.contextmanager
def following(model: PreTrainedModel) -> Iterator[Follower]:
    """Compare every VecInfer cache that `model` runs with, until the block ends, with the method model."""
    follower = Follower(model)
    methods = {
        "update": follower.update,
        "crop": follower.crop,
        "reset": follower.reset,
        "reorder_cache": follower.select,
        "batch_select_indices": follower.select,
        "batch_repeat_interleave": follower.repeat,
    }
    own = {name: vars(VecInferCache).get(name) for name in methods}
    get_interface, forward = AttentionInterface.get_interface, model.forward

    busy: set[int] = set()

    def wrapped(name: str):
        original = getattr(VecInferCache, name)

        @functools.wraps(original)
        def method(cache, *args, **kwargs):
            if id(cache) in busy:
                # One of the cache's methods uses another; the outer one is followed.
                return original(cache, *args, **kwargs)
            busy.add(id(cache))
            try:
                return methods[name](original, cache, *args, **kwargs)
            finally:
                busy.discard(id(cache))

        return method

    def interface(self, implementation, default):
        function = get_interface(self, implementation, default)
        return lambda *args, **kwargs: follower.attend(function, *args, **kwargs)

    @functools.wraps(forward)
    def watched_forward(*args, **kwargs):
        follower.begins(kwargs.get("attention_mask"))
        try:
            result = forward(*args, **kwargs)
        except BaseException:
            follower.fails()
            raise
        follower.ends()
        return result

    try:
        for name, method in {name: wrapped(name) for name in methods}.items():
            setattr(VecInferCache, name, method)
        AttentionInterface.get_interface = interface
        model.forward = watched_forward
        yield follower
    finally:
        for name, method in own.items():
            if method is None:
                delattr(VecInferCache, name)
            else:
                setattr(VecInferCache, name, method)
        AttentionInterface.get_interface = get_interface
        del model.forward
