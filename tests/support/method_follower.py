# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Follows running models and their VecInfer caches with the method model, and compares every attention output.

`with following(model) as follower:` (method_hooks.py) wraps the cache's public methods and transformers' attention
registry. Each layer of each forward pass, also inside `generate`, is then compared with what METHOD.md demands of the
queries, keys and values that the model really made; a difference raises `Divergence` at once. Crops, resets and moved
rows are followed.

A pass that ends with an exception leaves each layer that it reached in one of two states, as before or as if the call
were stored; both are carried on, and what the cache does next must fit one of them in every layer.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass, field

import numpy as np
import package_adapter as adapter
import torch
from method_model import Call, LayerModel, SlidingModel
from transformers import PreTrainedModel

from vecinfer_hf import VecInferCache


class Divergence(AssertionError):
    """The cache answered otherwise than METHOD.md says."""


@dataclass
class Followed:
    """What is known of one cache.

    Args:
        layers: followed layer -> the states it may be in; more than one only after a pass that did not end.
        columns: columns that calls which returned have left in it.
        broken: whether the last pass did not end and nothing has repaired the cache since.
    """

    layers: dict[int, list[LayerModel | SlidingModel]]
    columns: int = 0
    broken: bool = False


@dataclass
class _Pass:
    """One forward pass under way: the cache, its new valid columns, and the layers reached and answered."""

    cache: VecInferCache
    valid: np.ndarray
    states: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    before: dict[int, list] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)


class Injection:
    """One exception to be raised inside one layer of the next pass; `Follower.injection` holds it until it is raised.

    Args:
        error: what to raise.
        layer: in which layer.
        place: "before update", "after update", "before attention" or "after attention".
    """

    PLACES = ("before update", "after update", "before attention", "after attention")

    def __init__(self, error: BaseException, layer: int, place: str):
        self.error, self.layer, self.place = error, layer, place


class Follower:
    """The caches that are followed, and the wrapped methods. Made by `following`."""

    def __init__(self, model: PreTrainedModel):
        self.config = model.config
        self.caches: weakref.WeakKeyDictionary[VecInferCache, Followed] = weakref.WeakKeyDictionary()
        self.injection: Injection | None = None
        self.compared = 0
        """Attention outputs that were compared so far, one per layer and pass."""
        self._mask = None
        self._pass: _Pass | None = None

    def of(self, cache: VecInferCache) -> Followed:
        """Return what is known of a cache; one that is seen for the first time must be empty."""
        if cache not in self.caches:
            assert int(cache.get_seq_length()) == 0, "a cache must be followed from its first call on"
            self.caches[cache] = Followed(adapter.empty_models(cache, self.config))
        return self.caches[cache]

    def copied(self, cache: VecInferCache, duplicate: VecInferCache) -> None:
        """Follow `duplicate`, a copy of `cache`, from here on."""
        self.caches[duplicate] = copy.deepcopy(self.of(cache))

    def state(self, cache: VecInferCache) -> Followed:
        """Return a copy of what is known of a cache, for `unchanged`."""
        known = self.of(cache)
        return Followed({i: list(states) for i, states in known.layers.items()}, known.columns, known.broken)

    def unchanged(self, cache: VecInferCache, state: Followed) -> None:
        """Demand from here on that the cache is as it was at `state`, whatever was called since."""
        self.caches[cache] = state

    def resolvers(self, cache: VecInferCache, layer: int, columns: np.ndarray):
        """Return row -> Resolver for a layer whose columns are now `columns`, bool `[B, n]`."""
        return lambda row: adapter.resolver(cache, layer, row, columns[row])

    # What the wrapped functions call.

    def begins(self, mask) -> None:
        """A forward pass of the model begins, with this attention mask."""
        self._mask = mask.get("full_attention", next(iter(mask.values()))) if isinstance(mask, dict) else mask
        self._pass = None

    def ends(self) -> None:
        """The forward pass has returned."""
        self._pass = None

    def fails(self) -> None:
        """The forward pass has raised: every layer that it reached is as before or as after.

        If all layers count the new columns, the cache has the whole call, and what failed came behind it.
        """
        current, self._pass = self._pass, None
        if current is None or not current.states:
            return
        known = self.of(current.cache)
        if len(current.answered) == len(known.layers):
            return
        for index, before in current.before.items():
            if index in current.answered:
                after = known.layers[index]
            elif before[0].columns.size and len(before[0].columns) != len(current.valid):
                after = []
            else:
                # Nothing was answered, but the tokens may be stored already.
                keys, values = current.states[index]
                call = Call(keys, keys, values, current.valid, 1.0)
                after = [self._expected(known, current, index, state, call).after for state in before]
            known.layers[index] = before + after
        after = known.columns + current.valid.shape[1]
        if all(adapter.columns(current.cache, index) == after for index in known.layers):
            known.layers = {
                i: [s for s in states if s.columns.shape[1] == after] for i, states in known.layers.items()
            }
            known.columns, known.broken = after, False
        else:
            known.broken = True

    def _raise_injected(self, layer: int, place: str) -> None:
        injection = self.injection
        if injection is not None and (injection.layer, injection.place) == (layer, place):
            self.injection = None
            raise injection.error

    def update(self, original, cache, key_states, value_states, layer_idx, *args, **kwargs):
        """`VecInferCache.update`: note the layer's new keys and values."""
        self._raise_injected(layer_idx, "before update")
        known = self.of(cache)
        batch, tokens = key_states.shape[0], key_states.shape[2]
        if self._pass is None or self._pass.cache is not cache:
            self._pass = _Pass(cache, _valid_columns(self._mask, known.columns, batch, tokens))
        if layer_idx in known.layers:
            self._pass.before.setdefault(layer_idx, known.layers[layer_idx])
            self._pass.states[layer_idx] = adapter.array(key_states), adapter.array(value_states)
        result = original(cache, key_states, value_states, layer_idx, *args, **kwargs)
        self._raise_injected(layer_idx, "after update")
        return result

    def attend(self, original, module, query, key, value, attention_mask=None, scaling=None, **kwargs):
        """The attention function of a layer: compare its output."""
        layer = adapter.layer_that_stored(self.config, key, module)
        current = self._pass
        if current is None or layer not in current.states:
            return original(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        self._raise_injected(layer, "before attention")
        result = original(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        s_aux = kwargs.get("s_aux")
        # Eager attention takes them from the module.
        s_aux = getattr(module, "sinks", None) if s_aux is None else s_aux
        call = Call(
            adapter.array(query),
            *current.states[layer],
            current.valid,
            query.shape[-1] ** -0.5 if scaling is None else scaling,
            kwargs.get("softcap") or 0.0,
            adapter.array(s_aux),
            _shown(attention_mask, current.valid.shape[1]),
        )
        self.compare(current, layer, call, result[0])
        self._raise_injected(layer, "after attention")
        return result

    def _expected(self, known: Followed, current: _Pass, layer: int, state, call: Call):
        """Return what a call gives if the layer is in `state`, and the state after it."""
        if known.broken:
            state = state.cropped(known.columns, self.resolvers(current.cache, layer, state.columns))
        columns = np.concatenate([state.columns.reshape(len(current.valid), -1), current.valid], 1)
        return state.attend(call, self.resolvers(current.cache, layer, columns))

    def compare(self, current: _Pass, layer: int, call: Call, output: torch.Tensor) -> None:
        """Raise Divergence unless a layer's output `[B, T, Hq, D]` is that of one of the states it may be in.

        A second answer of the same layer in one pass is that of a layer that shares its keys and values: it must be
        what the layer itself would have answered, and changes nothing.
        """
        known = self.of(current.cache)
        is_shared = layer in current.answered
        given = adapter.array(output).transpose(0, 2, 1, 3)
        fitting, worst = [], 0.0
        for state in current.before[layer] if is_shared else known.layers[layer]:
            expected = self._expected(known, current, layer, state, call)
            off = np.where(current.valid[:, None, -given.shape[2] :, None], np.abs(given - expected.output), 0.0)
            ratio = float((off / (expected.bound + 1e-30)).max())
            if np.isfinite(given).all() and ratio <= 1:
                fitting.append(expected.after)
            worst = ratio if not np.isfinite(worst) or worst == 0 else min(worst, ratio)
        if not fitting:
            raise Divergence(
                f"layer {layer} of {type(current.cache.layers[layer]).__name__}: attention of {current.valid.shape} "
                f"columns behind {known.columns} is {worst:.3g} times further from METHOD.md than float32 explains"
            )
        self.compared += 1
        if is_shared:
            return
        known.layers[layer] = fitting
        current.answered.add(layer)
        if len(current.answered) == len(known.layers):
            known.columns += current.valid.shape[1]
            known.broken = False

    def crop(self, original, cache, tokens_to_remove) -> None:
        """`VecInferCache.crop`: forget the same columns, counted from what the cache says it holds."""
        known = self.of(cache)
        held = int(cache.get_seq_length())
        original(cache, tokens_to_remove)
        end = max(held - abs(int(tokens_to_remove)), 0)
        if known.broken and end > known.columns:
            return
        for index, states in known.layers.items():
            known.layers[index] = [
                state.cropped(end, self.resolvers(cache, index, state.columns[:, :end])) for state in states
            ]
        known.columns, known.broken = min(end, known.columns), False

    def reset(self, original, cache) -> None:
        """`VecInferCache.reset`: forget everything."""
        original(cache)
        known = self.of(cache)
        known.layers = adapter.empty_models(cache, self.config)
        known.columns, known.broken = 0, False

    def select(self, original, cache, indices) -> None:
        """`reorder_cache` and `batch_select_indices`: move the rows."""
        original(cache, indices)
        rows = indices.nonzero().flatten() if indices.dtype == torch.bool else indices
        self._moved(cache, rows.tolist())

    def repeat(self, original, cache, repeats) -> None:
        """`batch_repeat_interleave`: repeat each row."""
        batch = next((len(state.columns) for states in self.of(cache).layers.values() for state in states), 0)
        original(cache, repeats)
        self._moved(cache, [row for row in range(batch) for _ in range(repeats)])

    def _moved(self, cache, rows: list[int]) -> None:
        known = self.of(cache)
        known.layers = {i: [state.selected(rows) for state in states] for i, states in known.layers.items()}

    def audit(self, cache: VecInferCache) -> None:
        """Raise Divergence unless the cache's lengths and all that it holds are those of the model.

        After a call that failed: as before that call, in every layer.
        """
        known = self.of(cache)
        if known.broken:
            known.layers = {
                i: [s for s in states if s.columns.shape[1] == known.columns] for i, states in known.layers.items()
            }
        for index, states in known.layers.items():
            held = adapter.columns(cache, index)
            if held != known.columns:
                raise Divergence(f"layer {index} counts {held} columns, {known.columns} were fed")
            if not isinstance(states[0], LayerModel) or not known.columns:
                continue
            fitting = [state for state in states if self._holds(cache, index, state)]
            if not fitting:
                raise Divergence(f"layer {index} holds other keys or values than METHOD.md says")
            known.layers[index] = fitting
        known.broken = False

    @staticmethod
    def _holds(cache, index: int, state: LayerModel) -> bool:
        for number, (row, valid) in enumerate(zip(state.rows, state.columns, strict=True)):
            keys, values, key_error, value_error = row.read(state.settings)
            held = adapter.stored(cache, index, number, valid)
            for have, want, error in zip(held, (keys, values), (key_error, value_error), strict=True):
                if not (np.abs(have - want) <= error).all():
                    return False
        return True


def _valid_columns(mask, past: int, batch: int, count: int) -> np.ndarray:
    """Return which of `count` new columns are tokens, bool `[batch, count]`, by a 2-D or 4-D mask or None."""
    if mask is None:
        return np.ones((batch, count), bool)
    mask = mask.detach().cpu()
    if mask.dim() == 4:
        # What the last query does not see is padding, unless it is the first call and another query sees it.
        shown = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] == 0
        row = shown[:, -1] if past else shown.any(1)
    else:
        row = mask.bool()
    return row[:, past : past + count].expand(batch, -1).numpy()


def _shown(mask: torch.Tensor | None, count: int) -> np.ndarray | None:
    """Return which of `count` new columns each query sees by its mask, bool `[B, queries, count]`, or None."""
    if mask is None or mask.dim() != 4:
        return None
    shown = mask[:, 0, :, :count] if mask.dtype == torch.bool else mask[:, 0, :, :count] == 0
    return shown.cpu().numpy()
