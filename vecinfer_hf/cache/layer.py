# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""VecInferLayer: the storage of one attention layer, growing as tokens come.

Owns buffers and their life (growth, crop, reorder, select). attention.py computes on them, placement.py fills them.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from transformers.cache_utils import CacheLayerMixin

from ..attention.masks import NO_OFFSET
from ..codebook.codebook import Codebook
from ..config import FIRST
from ..ops import MAX_DECODE_QUERIES, select_backend
from ..ops.blockwise import cache_blocks
from ..ops.placement import store_tokens, window_span
from ..ops.to_device import to_device
from ..ops.types import CacheBuffers, LayerCodebook
from ..quantization.packing import TILE, bytes_per_tile
from .handle import CacheHandle, SharedState
from .online_codebook import OnlineCodebook
from .sinks import CANDIDATES, choose_sinks, sinks_to_front


_Piece = tuple[torch.Tensor, torch.Tensor, list[int], list[int]]
"""Keys, values, and of each row the first token to store and how many."""
_GROWTH = 1.125
"""A full buffer grows by an eighth: copying stays a constant cost per token and at most an eighth lies idle."""


class VecInferLayer(CacheLayerMixin):
    """Codes, exact sinks and exact recent window of one full-attention layer.

    Args:
        layer_idx: index of the layer in the model.
        codebook: the model's codebook.
        residual_length: recent tokens kept exact.
        sink_length: early tokens of each row kept exact.
        sink_choice: which ones, see `VecInferConfig.sink_choice`.
        ops_backend: see `VecInferConfig.ops_backend`.
        shared: state shared by the layers of one cache.
    """

    is_sliding = False
    is_croppable = True
    is_compileable = False

    def __init__(
        self,
        layer_idx: int,
        codebook: Codebook,
        residual_length: int,
        sink_length: int,
        sink_choice: str,
        ops_backend: str,
        shared: SharedState,
    ):
        super().__init__()
        self.layer_idx = layer_idx
        self.codebook = codebook
        self.residual_length = residual_length
        self.sink_length = sink_length
        self.sink_choice = sink_choice
        self.ops_backend = ops_backend
        self.shared = shared
        self.key_format, self.value_format = codebook.formats(layer_idx)
        self._clear()

    def _clear(self) -> None:
        self.cumulative_length = 0
        """Columns seen, padding included."""
        self.lengths: list[int] = []
        """Real tokens of each row; `buffers.lengths` on the host."""
        self.quantized_lengths: list[int] = []
        self.sink_order: torch.Tensor | None = None
        """Which token is stored at each of the first places, int32 `[B, Hkv, n]`; None if the order is the text's."""
        self.ordered: list[int] = []
        """How many of these places are each row's own."""
        self.buffers: CacheBuffers | None = None
        self.keys = self.values = None
        self.is_initialized = False

    def __repr__(self):
        formats = f"{self.key_format.name}/{self.value_format.name}"
        return f"{type(self).__name__}({formats}, {self.cumulative_length} tokens)"

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate empty buffers for the batch, heads, dtype and device of `key_states` `[B, Hkv, T, D]`."""
        batch, heads, _, head_dim = key_states.shape
        expected, value_dim = self.codebook.head_shape(self.layer_idx), value_states.shape[-1]
        if (heads, head_dim, value_dim) != expected or value_dim != head_dim:
            raise ValueError(
                f"Layer {self.layer_idx} caches {heads} heads of size {head_dim} (values {value_dim}), but its "
                f"codebook is for {expected.num_key_value_heads} heads of size {expected.key_head_dim} (values "
                f"{expected.value_head_dim}); use one made for this model. Values of another size than keys are not "
                "supported yet."
            )
        self.dtype, self.device = key_states.dtype, key_states.device
        config = self.shared.model_config
        backend = select_backend(
            self.ops_backend,
            self.device,
            self.dtype,
            head_dim,
            config.num_attention_heads // heads,
            (self.key_format, self.value_format),
        )
        # The name, not the module: a layer is copied and pickled with its cache.
        self.ops_module = backend.__name__
        tile_bytes = bytes_per_tile(self.key_format, self.value_format, head_dim)
        self._set_buffers(
            CacheBuffers(
                torch.zeros(batch, heads, 0, tile_bytes, dtype=torch.uint8, device=self.device),
                *(key_states.new_zeros(batch, heads, self.sink_length, head_dim) for _ in range(2)),
                *(key_states.new_zeros(batch, heads, 0, head_dim) for _ in range(2)),
                *(torch.zeros(batch, dtype=torch.int32, device=self.device) for _ in range(2)),
            )
        )
        self.lengths, self.quantized_lengths = [0] * batch, [0] * batch
        self.is_initialized = True

    @property
    def ops(self) -> ModuleType:
        """The operators of the backend in use."""
        return importlib.import_module(self.ops_module)

    def _set_buffers(self, buffers: CacheBuffers) -> None:
        self.buffers = buffers
        # Other libraries read `.keys.device` and the like; the exact window is what a layer has of that kind.
        self.keys, self.values = buffers.window_keys, buffers.window_values

    @property
    def layer_codebook(self) -> LayerCodebook:
        """This layer's codebook on this layer's device."""
        return self.codebook.layer(self.layer_idx, self.device)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Take new keys and values `[B, Hkv, T, D]`.

        Returns:
            Two `CacheHandle` if the model's attention is "vecinfer" (which stores the tokens); otherwise the whole
            cache as tensors `[B, Hkv, columns, D]`, dequantized.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        tokens = key_states.shape[2]
        self.cumulative_length += tokens
        if self.shared.handles_wanted:
            return CacheHandle(self, key_states), CacheHandle(self, value_states)
        past = self.past_columns(tokens)
        if past and not self.fits_window(tokens):
            old_keys, old_values = self.read(past)
            self.store(key_states, value_states)
            return torch.cat([old_keys, key_states], dim=2), torch.cat([old_values, value_states], dim=2)
        self.store(key_states, value_states)
        # A first prompt is attended to exactly, like everywhere in this package.
        return self.read(past + tokens) if past else (key_states, value_states)

    def past_columns(self, tokens: int) -> int:
        """Return the columns before the `tokens` new ones that `update` has counted and `store` has not stored yet."""
        return self.cumulative_length - tokens

    def forget_update(self, tokens: int) -> None:
        """Take back an `update` of `tokens` tokens that are not to be stored."""
        self.cumulative_length -= tokens

    def fits_window(self, tokens: int) -> bool:
        """Whether `tokens` new tokens may be stored before they attend: few, and no more than the window holds."""
        return tokens <= min(MAX_DECODE_QUERIES, self.residual_length)

    def store(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        real: torch.Tensor | None = None,
        query_states: torch.Tensor | None = None,
        keep_sinks: torch.Tensor | None = None,
    ) -> None:
        """Store new tokens behind the old ones and quantize what leaves the window.

        Args:
            key_states: `[B, Hkv, T, D]`.
            value_states: `[B, Hkv, T, D]`.
            real: bool `[B, T]` on the CPU, which are real tokens; None for all.
            query_states: `[B, Hq, T, D]`, which an online codebook may use, or None.
            keep_sinks: see `choose_sinks`, or None.
        """
        batch, _, tokens, _ = key_states.shape
        if real is None:
            first, counts = [0] * batch, [tokens] * batch
        else:
            counts = real.sum(1).tolist()
            first = [int(row.argmax()) if count else 0 for row, count in zip(real.int(), counts, strict=True)]
            if any(not row[f : f + c].all() for row, f, c in zip(real, first, counts, strict=True)):
                # Padding between real tokens: move each row's real tokens to its front.
                order = to_device((~real).int().argsort(dim=1, stable=True), key_states.device)
                index = order[:, None, :, None].expand_as(key_states)
                key_states, value_states = key_states.gather(2, index), value_states.gather(2, index)
                first = [0] * batch
        lengths, quantized = self.host_lengths()
        pieces = [(key_states, value_states, first, counts)]
        # Only in a first call: later ones may attend to what is stored already, by its place.
        chooses = self.sink_choice != FIRST and not any(lengths) and self.past_columns(tokens) == 0
        if chooses and max(counts) > self.sink_length > 0:
            pieces = self._choose_sinks(*pieces[0], keep_sinks)
        if isinstance(self.codebook, OnlineCodebook) and self.codebook.needs_fit(self.layer_idx):
            self._fit_online(pieces, query_states)
        self._reserve(counts, lengths, quantized)
        if real is None and len(pieces) == 1 and self.fits_window(tokens):
            keys, values = pieces[0][:2]
            self.ops.append(keys, values, self.buffers, self.layer_codebook, self.residual_length)
            self.lengths = [length + tokens for length in lengths]
            self.quantized_lengths = [
                window_span(length, tokens, coded, self.sink_length, self.residual_length)[0]
                for length, coded in zip(lengths, quantized, strict=True)
            ]
            return
        for piece in pieces:
            lengths, quantized = store_tokens(
                *piece,
                lengths,
                quantized,
                self.buffers,
                self.layer_codebook,
                self.residual_length,
                self.ops.quantize,
            )
        self.lengths, self.quantized_lengths = lengths, quantized

    def _choose_sinks(
        self, key_states, value_states, first: list[int], counts: list[int], keep: torch.Tensor | None
    ) -> list[_Piece]:
        """Return a text's first tokens in another order, sinks first, and the others as they are."""
        tokens = min(max(counts), self.sink_length + CANDIDATES)
        device, head_dim = key_states.device, key_states.shape[3]
        place = torch.arange(tokens, device=device)
        if any(first):
            place = to_device(first, device)[:, None] + place
        index = place.clamp_max(key_states.shape[2] - 1).view(-1, 1, tokens, 1)
        index = index.expand(*value_states.shape[:2], -1, head_dim)
        keys, values = key_states.gather(2, index), value_states.gather(2, index)
        ragged = min(counts) < tokens
        own = to_device(counts, device) if ragged else None
        index = sinks_to_front(choose_sinks(values, self.sink_length, self.sink_choice, own, keep))
        self.sink_order = index.to(torch.int32)
        index = index.unsqueeze(-1).expand(-1, -1, -1, head_dim)
        self.ordered = head = [min(count, tokens) for count in counts]
        pieces = [(keys.gather(2, index), values.gather(2, index), [0] * len(counts), head)]
        if max(counts) > tokens:
            rest = [count - own for count, own in zip(counts, head, strict=True)]
            pieces.append(
                (key_states, value_states, [start + own for start, own in zip(first, head, strict=True)], rest)
            )
        return pieces

    def _fit_online(self, pieces: list[_Piece], query_states: torch.Tensor | None) -> None:
        """Fit the codebook once a token is about to be coded, to all that is known of the text by then."""
        counts = [sum(row) for row in zip(*(piece[3] for piece in pieces), strict=True)]
        if max(self.lengths) + max(counts) <= self.sink_length + self.residual_length:
            return
        empty = not any(self.lengths)
        sinks = self.sink_length if empty else 0

        def tokens(side: int, window: torch.Tensor) -> torch.Tensor:
            rows = []
            for row in range(len(counts)):
                left = sinks
                for piece in pieces:
                    own = piece[side][row, :, piece[2][row] :][:, : piece[3][row]]
                    rows.append(own[:, left:])
                    left = max(left - own.shape[1], 0)
            return torch.cat([*window.unbind(0), *rows], dim=1)[None]

        keys = tokens(0, self.buffers.window_keys)
        values = tokens(1, self.buffers.window_values)
        # The queries of earlier calls are gone; without all of them the keys' own scale is used.
        queries = None if query_states is None or not empty else query_states.transpose(0, 1).flatten(1, 2)[None]
        self.codebook.fit(self.layer_idx, keys, values, queries)

    def host_lengths(self) -> tuple[list[int], list[int]]:
        """Return every row's real tokens and coded tokens, without touching the device."""
        return self.lengths, self.quantized_lengths

    def _reserve(self, counts: list[int], lengths: list[int], quantized: list[int]) -> None:
        """Make room for `counts[b]` more tokens in row `b`."""
        spans = [
            window_span(length, count, coded, self.sink_length, self.residual_length)
            for length, count, coded in zip(lengths, counts, quantized, strict=True)
        ]
        coded, ends = max(span[0] for span in spans), max(span[1] for span in spans)
        buffers = self.buffers
        tiles, have = -(-coded // TILE), buffers.codes.shape[2]
        if tiles > have:
            # The first prompt gets exactly what it needs, later growth is geometric.
            buffers = buffers._replace(codes=_grown(buffers.codes, max(tiles, int(have * _GROWTH))))
        places, have = min(ends, self.residual_length), buffers.window_keys.shape[2]
        if places > have:
            size = min(self.residual_length, max(places, int(have * _GROWTH) + TILE if have else places))
            buffers = buffers._replace(
                window_keys=_grown(buffers.window_keys, size), window_values=_grown(buffers.window_values, size)
            )
        if buffers is not self.buffers:
            self._set_buffers(buffers)

    def blocks(self):
        """Yield everything stored as `ops.blockwise.Block`s."""
        return cache_blocks(
            self.buffers,
            self.residual_length,
            lambda start, length: self.ops.dequantize(
                self.buffers.codes, self.layer_codebook, start, length, self.dtype
            ),
            max(self.host_lengths()[1], default=0),
        )

    def read(self, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of the first `columns` columns, `[B, Hkv, columns, D]`; padding columns are zero."""
        batch, heads, _, head_dim = self.buffers.sink_keys.shape
        real = self.shared.padding.columns_until(columns)
        longest = max(self.host_lengths()[0])
        keys, values = (
            torch.zeros(batch, heads, longest + 1, head_dim, dtype=self.dtype, device=self.device) for _ in range(2)
        )
        for block in self.blocks():
            # Empty places have index -1: they land in the spare last token.
            index = torch.where(block.token_index < 0, longest, block.token_index)
            index = index.expand(batch, -1)[:, None, :, None].expand_as(block.keys)
            keys.scatter_(2, index, block.keys)
            values.scatter_(2, index, block.values)
        if self.sink_order is not None:
            # A row is no shorter than its own part of the order; behind that the order is the text's.
            index = self.sink_order[:, :, :longest].long().unsqueeze(-1).expand(-1, -1, -1, head_dim)
            for states in (keys, values):
                states.scatter_(2, index, states[:, :, : index.shape[2]].clone())
        if real is None:
            return keys[:, :, :columns], values[:, :, :columns]
        real = real.to(self.device)
        index = torch.where(real, real.cumsum(1) - 1, longest)[:, None, :, None].expand(-1, heads, -1, head_dim)
        keys[:, :, longest] = values[:, :, longest] = 0
        return keys.gather(2, index), values.gather(2, index)

    def get_seq_length(self) -> int:
        """Return the columns seen, padding included."""
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the columns of a mask for `query_length` more tokens, and its offset, 0 (see `masks.NO_OFFSET`)."""
        return self.cumulative_length + query_length, NO_OFFSET

    def get_max_length(self) -> int:
        """Return -1: the layer grows without bound."""
        return -1

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this layer: codes, sinks, window, lengths, the sinks' order and its codebook."""
        order = 0 if self.sink_order is None else self.sink_order.nbytes
        return (
            order + (self.buffers.nbytes if self.is_initialized else 0) + self.codebook.layers[self.layer_idx].nbytes
        )

    def reset(self) -> None:
        """Forget everything and free the buffers."""
        self._clear()

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last `|tokens_to_remove|` columns.

        Lengths move, codes stay codes: after a crop the exact window is shorter until it has filled again. Only a crop
        into the first tokens that sinks were chosen from stores what is left anew, the sinks among it as sinks.

        Args:
            tokens_to_remove: 0 or negative.

        Raises:
            ValueError: if it is positive.
        """
        if tokens_to_remove > 0:
            raise ValueError(
                f"crop({tokens_to_remove}) is not supported: pass the negative number of tokens to remove."
            )
        if tokens_to_remove == 0 or not self.is_initialized:
            return
        seen = int(self.cumulative_length)
        columns = min(-tokens_to_remove, seen)
        lengths, quantized = self.host_lengths()
        removed = self.shared.padding.real_tokens(seen - columns, seen, len(lengths))
        left = [length - count for length, count in zip(lengths, removed, strict=True)]
        if any(left) and any(length < own for length, own in zip(left, self.ordered, strict=False)):
            self._store_again(seen, seen - columns)
            return
        if not any(left):
            self.sink_order, self.ordered = None, []
        self.cumulative_length -= columns
        self.lengths = left
        self.quantized_lengths = [
            min(coded, max(length - self.sink_length, 0))
            for length, coded in zip(self.lengths, quantized, strict=True)
        ]
        self.buffers.lengths.copy_(torch.tensor(self.lengths, dtype=torch.int32))
        self.buffers.quantized_lengths.copy_(torch.tensor(self.quantized_lengths, dtype=torch.int32))

    def _store_again(self, seen: int, columns: int) -> None:
        """Keep the first `columns` of all columns `seen`, where sinks may come from behind them."""
        real = self.shared.padding.columns_until(columns)
        if real is None and seen > max(self.ordered):
            # What is behind the candidates goes the ordinary way, so that little has to be read.
            self.crop(max(self.ordered) - seen)
            seen = max(self.ordered)
        keys, values = self.read(seen)
        sinks = self.sink_order[:, :, : self.sink_length].long()
        self.reset()
        keys, values = keys[:, :, :columns], values[:, :, :columns]
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.cumulative_length += columns
        self.store(keys, values, None if real is None or bool(real.all()) else real, keep_sinks=sinks)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Keep the rows `beam_idx`, in that order, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices` `[n]` (int64, or bool `[B]`), in that order."""
        if not self.is_initialized:
            return
        indices = indices.to(self.device)
        if indices.dtype == torch.bool:
            indices = indices.nonzero().squeeze(1)
        self._set_buffers(CacheBuffers(*(tensor.index_select(0, indices) for tensor in self.buffers)))
        if self.sink_order is not None:
            self.sink_order = self.sink_order.index_select(0, indices)
        if len(set(zip(self.lengths, self.quantized_lengths, self.ordered or self.lengths, strict=True))) == 1:
            rows = [0] * len(indices)
        else:
            rows = indices.tolist()
        self.lengths = [self.lengths[row] for row in rows]
        self.ordered = [self.ordered[row] for row in rows] if self.ordered else []
        self.quantized_lengths = [self.quantized_lengths[row] for row in rows]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times in place."""
        if not self.is_initialized:
            return
        self._set_buffers(CacheBuffers(*(tensor.repeat_interleave(repeats, dim=0) for tensor in self.buffers)))
        if self.sink_order is not None:
            self.sink_order = self.sink_order.repeat_interleave(repeats, dim=0)
        self.lengths = [length for length in self.lengths for _ in range(repeats)]
        self.ordered = [own for own in self.ordered for _ in range(repeats)]
        self.quantized_lengths = [length for length in self.quantized_lengths for _ in range(repeats)]

    def offload(self) -> None:
        """Move all buffers to the CPU."""
        if self.is_initialized:
            self._set_buffers(CacheBuffers(*(tensor.to("cpu", non_blocking=True) for tensor in self.buffers)))

    def prefetch(self) -> None:
        """Move all buffers back to the device they were made on."""
        if self.is_initialized:
            self._set_buffers(CacheBuffers(*(tensor.to(self.device, non_blocking=True) for tensor in self.buffers)))


def _grown(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """Copy `tensor` into one with `size` places in dimension 2."""
    grown = tensor.new_zeros(*tensor.shape[:2], size, *tensor.shape[3:])
    grown[:, :, : tensor.shape[2]] = tensor
    return grown
