# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""VecInferCache: the cache object that generate and models see; one VecInferLayer per full-attention layer.

Owns what concerns all layers of a forward pass. make_layers.py owns their choice, layer.py a layer's storage.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin, QuantizedCache

from ..codebook.codebook import Codebook
from ..config import VecInferConfig
from ..distributed.heads import head_shard
from ..errors import CacheStateError, ConfigError, UnsupportedCallError, UnsupportedModelError
from ..model_info import unsupported_model_reason, unsupported_reason, unwrapped
from .default_layers import empty_growing, rows_of, select_rows
from .forward_pass import Lengths
from .layer import VecInferLayer
from .make_layers import make_layers
from .recurrent_states import RecurrentStates
from .row_checks import check_crop, check_layer_crop, check_repeats, row_numbers
from .saved import SavedCaches
from .sizes import CacheSizes
from .static_layer import VecInferStaticLayer
from .storage import ordinary_tensors


class VecInferCache(CacheSizes, SavedCaches, RecurrentStates, QuantizedCache):
    """A key/value cache that keeps old tokens as vector-quantization codes (https://arxiv.org/abs/2510.06175).

    Under transformers' tensor parallelism each process has a cache of its own heads, `codebook` included.

    Layers with full attention get a `VecInferLayer`; sliding-window and linear-attention layers, which do not grow
    with the context, keep transformers' own. Only "vecinfer" attention reads codes; `generate` and `enable`
    switch on; with another implementation a forward pass is refused before anything is stored.

    Args:
        model_or_config: the model, PEFT's or another wrapper of it, or its config.
        codebook: a Codebook, a VecInferConfig, or the name of a codebook (see `VecInferConfig`); None for "auto".
        revision, subfolder, trusted_owners, make, budget, key_bits, value_bits, residual_length, sink_length,
            sink_choice, static, max_cache_len (required if static), ops_backend: see `VecInferConfig`; None as the
            codebook was made.

    Raises:
        UnsupportedModelError: for a model that cannot have such a cache.
        ConfigError: for an option that breaks a rule or contradicts the codebook.
        CodebookError: for a codebook that cannot be found or does not fit.
    """

    def __init__(
        self,
        model_or_config: torch.nn.Module | PreTrainedConfig,
        codebook: Codebook | VecInferConfig | str | None = None,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        trusted_owners: list[str] | None = None,
        make: bool | None = None,
        budget: float | None = None,
        key_bits: float | str | None = None,
        value_bits: float | str | None = None,
        residual_length: int | None = None,
        sink_length: int | None = None,
        sink_choice: str | None = None,
        static: bool | None = None,
        max_cache_len: int | None = None,
        ops_backend: str | None = None,
    ):
        from ..integration.resolve import resolve

        given = {
            "revision": revision,
            "subfolder": subfolder,
            "trusted_owners": trusted_owners,
            "make": make,
            "budget": budget,
            "key_bits": key_bits,
            "value_bits": value_bits,
            "residual_length": residual_length,
            "sink_length": sink_length,
            "sink_choice": sink_choice,
            "static": static,
            "max_cache_len": max_cache_len,
            "ops_backend": ops_backend,
        }
        is_model = isinstance(model_or_config, torch.nn.Module)
        model_or_config = unwrapped(model_or_config) if is_model else model_or_config
        config = model_or_config.config if is_model else model_or_config
        reason = unsupported_model_reason(model_or_config) if is_model else unsupported_reason(config)
        if reason:
            raise UnsupportedModelError(f"No VecInfer cache for this model: {reason}.")
        shard = head_shard(model_or_config)
        whole, options = resolve(model_or_config, codebook, **given)
        self.codebook = whole.shard(shard)
        if options.static and options.max_cache_len is None:
            raise ConfigError("A static cache needs max_cache_len, the tokens it has room for.")
        layers, self.forward_pass = make_layers(config, self.codebook, options, shard)
        Cache.__init__(self, layers=layers)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args, **kwargs):
        """Take new keys `[B, Hkv, T, Dk]` and values `[B, Hkv, T, Dv]` of one layer.

        The first layer of a forward pass checks the call before any layer stores anything.

        Returns:
            Two `CacheHandle` for a layer of codes, for "vecinfer" attention; else what transformers' layer returns.

        Raises:
            UnsupportedCallError: for another number of rows than the cache holds, or more tokens than a static cache
                has room for; nothing was stored.
            CacheStateError: if an earlier pass ended midway, so that layers hold different tokens.
        """
        if layer_idx >= len(self.layers):
            raise UnsupportedCallError(
                f"The model has a layer {layer_idx}, but this cache was made for {len(self.layers)} layers; make it "
                "from the config of the model that runs."
            )
        layer = self.layers[layer_idx]
        recorded = self.forward_pass.recorded_columns is not None
        if recorded or torch.compiler.is_compiling() or not self.forward_pass.quantized:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        self.forward_pass.states.reaches(layer_idx, "attention")
        if layer_idx == self.forward_pass.order[0]:
            self._begin_pass(key_states)
        if not layer.is_initialized and isinstance(layer, CacheLayerMixin):
            self.forward_pass.allocated(layer)
            with ordinary_tensors():
                layer.lazy_initialization(key_states, value_states)
        if isinstance(layer, VecInferLayer):
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        self.forward_pass.remember(layer, key_states.shape[2])
        states = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if layer_idx in self.forward_pass.order:
            self.forward_pass.stored(layer_idx)
        self.forward_pass.hand_out(states[0])
        return states

    def _begin_pass(self, key_states: torch.Tensor) -> None:
        """Check a call by its first keys `[B, Hkv, T, Dk]`."""
        self._settle_recorded()
        torn = any(layer.storage.torn is not None for layer in self.quantized_layers)
        if torn or not self.forward_pass.is_between_passes:
            low, high = self._columns()
            if torn or low != high:
                raise CacheStateError(
                    f"An earlier forward pass ended midway: layers hold {low} to {high} columns. "
                    f"`cache.crop({low - high})` removes what it left, `cache.reset()` removes everything."
                )
        self._check_rows(key_states)
        first = self.layers[self.forward_pass.quantized[0]]
        before = first.read_lengths() if first.is_initialized and first.is_compileable else None
        if first.is_compileable:
            nothing = [0] * key_states.shape[0]
            before = before or Lengths(0, nothing, nothing)
            first.check_room(before, key_states.shape[2])
        self.forward_pass.begin(before)

    def _settle_recorded(self) -> None:
        """Note what a recorded step stored whose replay was interrupted."""
        if self.forward_pass.replaying:
            for layer in self.quantized_layers:
                layer.settle_recorded()
            self.forward_pass.replaying = False

    def _columns(self) -> tuple[int, int]:
        """Return the least and the most columns that a layer has seen."""
        columns = [int(self.layers[index].get_seq_length()) for index in self.forward_pass.order]
        return min(columns), max(columns)

    @property
    def quantized_layers(self) -> list[VecInferLayer]:
        """The layers that hold codes."""
        return [layer for layer in self.layers if isinstance(layer, VecInferLayer)]

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last `|tokens_to_remove|` columns (0 or negative).

        After a forward pass that ended midway, columns are counted from the layer that has most. Those that not every
        layer has are always removed, also by `crop(0)`.

        Raises:
            UnsupportedCallError: if a layer cannot go back that far; nothing was removed.
        """
        tokens_to_remove = check_crop(tokens_to_remove)
        self._settle_recorded()
        if not self.forward_pass.quantized:
            super().crop(tokens_to_remove)
            return
        low, high = self._columns()
        left = max(high + tokens_to_remove, 0)
        ended_midway = low != high or any(layer.storage.torn is not None for layer in self.quantized_layers)
        if ended_midway:
            # Layers that stored and are cropped hold more codes than those that did not.
            self.forward_pass.layers_agree = False
        self.forward_pass.take_back()
        for layer in self.quantized_layers:
            layer.settle()
        if ended_midway:
            # What not every layer has is no whole call, whatever was asked for.
            left = min(left, self._columns()[0])
        excess = {}
        for index, layer in enumerate(self.layers):
            excess[index] = 0
            if index in self.forward_pass.order:
                excess[index] = min(left - int(layer.get_seq_length()), 0)
            elif index in self.forward_pass.states.recurrent:
                excess[index] = tokens_to_remove
            check_layer_crop(layer, index, excess[index])
        for index, layer in enumerate(self.layers):
            # Transformers' layers take crop(0) only while they record their past, and hold something.
            if excess[index] or (getattr(layer, "record_past", False) and rows_of(layer) is not None):
                layer.crop(excess[index])
        self.forward_pass.padding.crop(left)
        self.forward_pass.begin(None)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Keep the rows `beam_idx`, in that order."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices` `[n]` (integers, negative ones from the end, or bool `[B]`), in that order.

        Raises:
            UnsupportedCallError: for rows that are not there, or another number of rows in a static cache.
        """
        batch_size = self._batch_size()
        if batch_size is None:
            return
        self._settle_recorded()
        rows = row_numbers(indices, batch_size)
        if self.is_static and len(rows) != batch_size:
            raise UnsupportedCallError(
                f"A static cache of {batch_size} rows cannot become one of {len(rows)}; use a growing one "
                '("static": false).'
            )
        self._select_rows(rows)
        self.forward_pass.padding.select(rows)

    def _select_rows(self, rows: torch.Tensor) -> None:
        for layer in self.layers:
            if isinstance(layer, VecInferLayer):
                layer.batch_select_indices(rows)
            elif self.is_static:
                layer.reorder_cache(rows)  # transformers' static layers can no more
            else:
                select_rows(layer, rows)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times.

        Raises:
            UnsupportedCallError: for less than 1, or more than 1 in a static cache.
        """
        if check_repeats(repeats) == 1:
            return
        batch_size = self._batch_size()
        if batch_size is None:
            return
        if self.is_static:
            raise UnsupportedCallError(
                'A static cache cannot change its number of rows; use a growing one ("static": false).'
            )
        self._settle_recorded()
        self._select_rows(torch.arange(batch_size).repeat_interleave(repeats))
        self.forward_pass.padding.repeat(repeats)

    @property
    def is_static(self) -> bool:
        """Whether the cache was allocated at once."""
        return any(isinstance(layer, VecInferStaticLayer) for layer in self.layers)

    def _batch_size(self) -> int | None:
        """Return the number of rows, or None before the first token."""
        for layer in self.layers:
            if isinstance(layer, VecInferLayer):
                rows = layer.storage.batch_size if layer.is_initialized else None
            else:
                rows = rows_of(layer)
            if rows is not None:
                return rows
        return None

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        for layer in self.layers:
            empty_growing(layer)
        self.forward_pass.reset()
