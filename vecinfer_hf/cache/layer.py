# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""VecInferLayer: one attention layer in a forward pass. It stores new tokens and attends over everything stored.

Owns the choice of path for each call. stored_rows.py owns what happens to rows between passes, attention/ and ops/
the arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch

from ..attention.full_precision import full_precision_attention
from ..attention.later_tokens import attend_before_storing
from ..codebook.codebook import Codebook
from ..errors import CodebookError
from ..ops.backend import select_backend
from ..ops.to_device import to_device
from ..ops.types import MAX_DECODE_QUERIES
from ..quantization.formats import CodeFormat
from .contract import QuantizedLayerContract
from .forward_pass import Call, ForwardPass, Lengths
from .handle import CacheHandle
from .online_codebook import OnlineCodebook, row_states
from .sinks import Piece, SinkOrder, valid_piece
from .storage import GrowingStorage, ordinary_tensors
from .stored_rows import StoredRows


EAGER_ONLY = (
    "a prompt, padded rows and several tokens at once read row lengths on the host, so a VecInfer cache compiles only "
    "decode steps of one token; leave out fullgraph=True, or let generate compile the decode step"
)


class VecInferLayer(QuantizedLayerContract, StoredRows):
    """Codes, sinks and exact recent window of one full-attention layer, growing as tokens come.

    Args:
        layer_idx: index of the layer in the model.
        codebook: the model's codebook.
        query_heads: query heads of the layer.
        residual_length: recent tokens kept in full precision.
        sink_length: early tokens of each row kept in full precision.
        sink_choice: which ones, see `VecInferConfig.sink_choice`.
        ops_backend: see `VecInferConfig.ops_backend`.
        forward_pass: what the layers of one cache share.
    """

    def __init__(
        self,
        layer_idx: int,
        codebook: Codebook,
        query_heads: int,
        residual_length: int,
        sink_length: int,
        sink_choice: str,
        ops_backend: str,
        forward_pass: ForwardPass,
    ):
        self.query_heads = query_heads
        self.ops_backend = ops_backend
        self.readers = 1
        """Attention layers that read this one: itself, and those that share its keys and values."""
        self.readers_answered = 0
        """Those that have read the token of a compiled or recorded step; 0 between steps."""
        self._call: Call | None = None
        storage = self._new_storage(codebook.formats(layer_idx), residual_length, sink_length)
        super().__init__(layer_idx, codebook, storage, SinkOrder(sink_length, sink_choice), forward_pass)

    def _new_storage(self, formats: tuple[CodeFormat, CodeFormat], residual_length: int, sink_length: int):
        return GrowingStorage(formats, residual_length, sink_length)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate empty buffers for keys `[B, Hkv, T, Dk]` and values `[B, Hkv, T, Dv]`; `T` may be 0.

        Raises:
            CodebookError: if the codebook is for other heads.
            BackendError: if the operators that were asked for cannot serve this layer.
        """
        heads, key_dim, value_dim = key_states.shape[1], key_states.shape[3], value_states.shape[3]
        expected = tuple(self.codebook.head_shape(self.layer_idx))
        if (heads, key_dim, value_dim) != expected:
            raise CodebookError(
                f"Layer {self.layer_idx} caches {heads} heads with keys of size {key_dim} and values of size "
                f"{value_dim}, but its codebook is for {expected[0]} heads of sizes {expected[1]} and {expected[2]}; "
                "use one made for this model."
            )
        # Mixed precision may give keys of another dtype; both are stored in that of the values.
        self.dtype, self.device = value_states.dtype, value_states.device
        # The name alone: a layer is copied and pickled with its cache.
        self.ops_name = select_backend(
            self.ops_backend,
            self.device,
            self.dtype,
            key_dim,
            value_dim,
            self.query_heads // heads,
            self.storage.formats,
        ).name
        self.storage.allocate(key_states, value_states)
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any):
        """Return two `CacheHandle` for new keys `[B, Hkv, T, Dk]` and values `[B, Hkv, T, Dv]`; nothing is stored."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._call = None
        return CacheHandle(self, key_states), CacheHandle(self, value_states)

    def fits_window(self, tokens: int) -> bool:
        """Return whether `tokens` new tokens may be stored before they attend: few, and no more than the window."""
        return tokens <= min(MAX_DECODE_QUERIES, self.residual_length)

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        softmax_scale: float,
        softcap: float | None = None,
        sink_logits: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Store new tokens and return their attention over everything stored, `[B, Tq, Hq, Dv]`.

        Layers that share these keys and values call it later in the same pass. They are answered from the same state,
        and may ask for the last `Tq` new tokens only (Gemma 4).

        Args:
            module: the attention module, for transformers' SDPA.
            query: `[B, Hq, Tq, Dk]` after RoPE; `Tq` is `T` in the layer itself.
            key_states: `[B, Hkv, T, Dk]`, the new keys.
            value_states: `[B, Hkv, T, Dv]`, the new values.
            attention_mask: bool or additive `[B, 1, Tq, columns]`, or None for causal attention without padding.
            softmax_scale: factor on `q . k`.
            softcap: softcap of the scaled scores, or None.
            sink_logits: `[Hq]`, GPT-OSS's learned logits, or None.

        Raises:
            UnsupportedMaskError: for a mask that is not causal attention over each row's tokens; nothing was stored.
        """
        arguments = module, query, key_states, value_states, attention_mask, softmax_scale, softcap, sink_logits
        # Outside a compiled model the call is plain: what keeps the compiler out takes as long as a small operator.
        attend = self._attend_uncompiled if torch.compiler.is_compiling() else self._attend
        return attend(*arguments)

    def _attend(
        self, module, query, key_states, value_states, attention_mask, softmax_scale, softcap, sink_logits
    ) -> torch.Tensor:
        tokens, out_dtype = key_states.shape[2], query.dtype
        if self.forward_pass.recorded_columns is not None:
            states = (x.to(self.dtype) for x in (query, key_states, value_states))
            return self.store_and_attend(*states, softmax_scale, softcap, sink_logits).to(out_dtype)
        call, is_first, is_last = self._next_reader(attention_mask, query.shape[0], tokens)
        before, valid = call.before, call.valid
        if before.columns == 0:
            if attention_mask is not None:
                # The mask of a static cache is as wide as the cache.
                attention_mask = attention_mask[..., :tokens]
            output = full_precision_attention(
                module, query, key_states, value_states, attention_mask, softmax_scale, softcap, sink_logits
            )
            if is_first:
                self.store(key_states, value_states, valid, query, before)
            return output
        states = query, key_states, value_states = tuple(x.to(self.dtype) for x in (query, key_states, value_states))
        learns = torch.is_grad_enabled() and any(x.requires_grad for x in states)
        if valid is None and self.fits_window(tokens) and not learns:
            if is_first:
                self.store(key_states, value_states, before=before)
            output, _ = self.ops.decode_attention(
                query, self.buffers, self.layer_codebook, softmax_scale, softcap or 0.0, sink_logits
            )
        else:
            output = attend_before_storing(
                *states,
                before.tokens,
                before.quantized,
                self.buffers,
                self.layer_codebook,
                self.ops,
                None if valid is None else to_device(valid, self.device),
                softmax_scale,
                softcap,
                sink_logits,
            )
            if is_first and not is_last:
                # The pass goes on, and until the last reader has stored the layer counts as torn.
                self.storage.torn = before
                self.forward_pass.stored(self.layer_idx)
            if is_last:
                self.store(key_states, value_states, valid, before=before, is_noted=not is_first)
        return output.transpose(1, 2).contiguous().to(out_dtype)

    _attend_uncompiled = torch.compiler.disable(_attend, reason=EAGER_ONLY)

    def store_and_attend(
        self,
        query: torch.Tensor,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        softmax_scale: float,
        softcap: float | None,
        sink_logits: torch.Tensor | None,
    ) -> torch.Tensor:
        """Store one token in every row and attend, by the lengths on the device alone; see `attend`."""
        if self.readers_answered == 0:
            self.ops.append(key_states, value_states, self.buffers, self.layer_codebook)
        self.readers_answered = (self.readers_answered + 1) % self.readers
        output, _ = self.ops.decode_attention(
            query, self.buffers, self.layer_codebook, softmax_scale, softcap or 0.0, sink_logits
        )
        return output.transpose(1, 2).contiguous()

    def _next_reader(self, attention_mask: torch.Tensor | None, batch: int, tokens: int) -> tuple[Call, bool, bool]:
        """Return the call that is answered next, and whether this is its first and its last reader.

        Args:
            attention_mask: as for `attend`.
            batch: rows.
            tokens: new columns.
        """
        call, is_first = self._call, self._call is None
        if call is None:
            before = self.forward_pass.lengths_before(self)
            width = self.max_cache_len if self.is_compileable else None
            valid = self.forward_pass.padding.observe(attention_mask, batch, before.columns, tokens, width)
            call = Call(before, valid, self.readers)
        call = call._replace(readers_left=call.readers_left - 1)
        self._call = call if call.readers_left else None
        return call, is_first, not call.readers_left

    def store(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        valid: torch.Tensor | None = None,
        query: torch.Tensor | None = None,
        before: Lengths | None = None,
        is_noted: bool = False,
    ) -> None:
        """Store new tokens behind the old ones and quantize what leaves the window.

        Args:
            key_states: `[B, Hkv, T, Dk]`.
            value_states: `[B, Hkv, T, Dv]`.
            valid: bool `[B, T]` on the CPU, which columns are tokens; None for all.
            query: `[B, Hq, T, Dk]`, which an online codebook may use, or None.
            before: what the layer holds, if that is known on the host.
            is_noted: whether the forward pass has been told already.
        """
        before = self.read_lengths() if before is None else before
        self.storage.torn = before
        with ordinary_tensors():
            states = key_states.to(self.dtype), value_states.to(self.dtype)
            self._store_piece(valid_piece(*states, valid), query, before)
        # In this order, so that a call that ends here is noticed: torn until the pass knows that the layer stored.
        self._set_columns(before.columns + key_states.shape[2])
        if not is_noted:
            self.forward_pass.stored(self.layer_idx)
        self.storage.torn = None

    def _store_piece(self, piece: Piece, query: torch.Tensor | None, before: Lengths) -> None:
        # Sinks are chosen in a first call only: later ones may attend to what is stored already, by its place.
        first_call = before.columns == 0 and not any(before.tokens)
        pieces = self.sinks.sinks_first(piece) if first_call else [piece]
        if isinstance(self.codebook, OnlineCodebook):
            self._fit_online(piece, pieces, query, before)
        lengths = before.tokens or [0] * len(piece.counts), before.quantized or [0] * len(piece.counts)
        tokens = piece.keys.shape[2]
        whole = len(pieces) == 1 and not any(piece.first) and piece.counts == [tokens] * len(piece.counts)
        if whole and self.fits_window(tokens):
            self.storage.append(pieces[0].keys, pieces[0].values, lengths, self.layer_codebook, self.ops)
        else:
            self.storage.store(pieces, lengths, self.layer_codebook, self.ops)

    def _fit_online(self, piece: Piece, pieces: list[Piece], query: torch.Tensor | None, before: Lengths) -> None:
        """Fit the codebook when the first token of this layer is about to be coded, to all tokens known by then.

        A static layer is fitted to its prompt however short it is: its decode steps are compiled and cannot wait.
        """
        stored = before.tokens or [0] * len(piece.counts)
        totals = [old + new for old, new in zip(stored, piece.counts, strict=True)]
        is_due = max(totals) > self.sink_length + self.residual_length
        if any(before.quantized) or not (is_due or (self.is_compileable and max(piece.counts) > 1)):
            return
        sinks = self.sink_length if max(totals) > self.sink_length else 0
        order = sorted(range(len(totals)), key=totals.__getitem__)

        longest = order[-1]
        if query is not None:
            query = query[longest, :, piece.first[longest] :][:, : piece.counts[longest]]
        rings = self.buffers.ring_keys, self.buffers.ring_values
        keys, values = (row_states(pieces, side, ring, stored, sinks, order) for side, ring in enumerate(rings))
        own_tokens = max(totals) - sinks
        self.codebook.fit(self.layer_idx, keys, values, query, own_tokens, self.residual_length)
