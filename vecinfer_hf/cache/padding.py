# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Padding: which columns of a batch are tokens of each row, learned once per forward pass from the attention mask.

Owns the reading and checking of masks. A cache row is compact, so the layers need to know what to leave out. The first
call attends by its mask, whatever that is; later calls attend causally to each row's tokens.
"""

from __future__ import annotations

import weakref

import torch

from ..errors import UnsupportedMaskError


class Padding:
    """The valid columns of every row of one cache, shared by its layers.

    `columns` is None as long as every column of every row is a token, else bool `[B, columns seen]` on the CPU.
    """

    def __init__(self):
        self.columns: torch.Tensor | None = None
        self._last_mask: weakref.ref | None = None
        self._last_place: tuple[int, int] | None = None
        self._last_new: torch.Tensor | None = None

    def __getstate__(self):
        # The last mask is only a short cut within one forward pass, and a weak reference cannot be pickled.
        return {"columns": self.columns, "_last_mask": None, "_last_place": None, "_last_new": None}

    def observe(
        self, mask: torch.Tensor | None, batch: int, past: int, queries: int, width: int | None = None
    ) -> torch.Tensor | None:
        """Return which of the new columns are tokens, bool `[B, queries]` on the CPU, or None for all.

        All layers of a forward pass see the same mask; it is read once, by the first.

        Args:
            mask: bool `[B or 1, 1, queries, past + queries]`, True where attended (or additive, 0 where attended), or
                None for plain causal attention.
            batch: rows.
            past: columns stored before this forward.
            queries: new columns.
            width: columns that the mask may have instead of `past + queries`: those of a static cache.

        Raises:
            UnsupportedMaskError: if, behind stored columns, the mask hides more than the future and padding, or a
                stored column that was shown, or shows one that was hidden.
        """
        if mask is None:
            if self.columns is not None:
                raise UnsupportedMaskError(
                    "This cache holds left-padded rows, but the forward pass brought no attention mask; pass the same "
                    "attention_mask, extended by the new tokens."
                )
            return None
        if self._last_mask is not None and self._last_mask() is mask and self._last_place == (past, queries):
            return self._last_new
        new = self._read(mask, batch, past, queries, width)
        self._last_mask, self._last_place, self._last_new = weakref.ref(mask), (past, queries), new
        return new

    def _read(self, mask: torch.Tensor, batch: int, past: int, queries: int, width: int | None) -> torch.Tensor | None:
        widths = past + queries, width
        if mask.shape[1:-1] != (1, queries) or mask.shape[0] not in (1, batch) or mask.shape[-1] not in widths:
            raise UnsupportedMaskError(
                f"The attention mask has shape {tuple(mask.shape)}; the vecinfer cache needs "
                f"[{batch}, 1, {queries}, {past + queries}]."
            )
        attend = mask if mask.dtype == torch.bool else mask == 0
        attend = attend[:, 0, :, : past + queries]
        # The last query is after every column, so what it does not see is padding.
        valid = attend[:, -1]
        self.columns = self.columns_until(past)
        causal = torch.ones(queries, past + queries, dtype=torch.bool, device=mask.device).tril(past)
        wrong = attend != valid.unsqueeze(1) & causal
        # A padding query sees all or nothing; one that sees something else looks like a token (of a tree, of another
        # text in the same row).
        answered = valid[:, past:] | (wrong.any(2) & (attend != attend[:, :, :1]).any(2))
        is_causal = not bool((wrong & answered.unsqueeze(2)).any())
        if not is_causal and past:
            raise UnsupportedMaskError(
                "The attention mask is not causal attention over each row's tokens (bidirectional spans of an image, "
                "packed texts or branches behind stored tokens). The vecinfer cache can honour such a mask in its "
                "first call only; give the whole prompt in one call, or use the default cache."
            )
        if not is_causal:
            # The first call attends by the mask itself; only which columns are padding is remembered.
            valid = valid | (attend & ~attend.all(2, keepdim=True)).any(1)
        history = self.columns
        changed = ~valid[:, :past] if history is None else valid[:, :past] != history.to(valid.device)
        if bool(changed.any()):
            raise UnsupportedMaskError(
                "The attention mask hides or shows a column otherwise than earlier calls did. The vecinfer cache "
                "stores each token once for all later calls; use the default cache for this call."
            )
        valid = valid.cpu().expand(batch, -1)
        if bool(valid.all()):
            self.columns = None
            return None
        self.columns = valid
        new = valid[:, past:]
        return None if bool(new.all()) else new

    def columns_until(self, end: int) -> torch.Tensor | None:
        """Return which of the first `end` columns are tokens, bool `[B, end]`, or None for all.

        A compiled decode step does not report its columns: it has no padding, so what is missing here are tokens.
        """
        if self.columns is None:
            return None
        missing = end - self.columns.shape[1]
        return torch.nn.functional.pad(self.columns, (0, missing), value=True)

    def valid_tokens(self, start: int, end: int, batch: int) -> list[int]:
        """Return how many of the columns `start .. end` are tokens, for each of `batch` rows."""
        if self.columns is None:
            return [end - start] * batch
        return self.columns_until(end)[:, start:].sum(1).tolist()

    def crop(self, columns: int) -> None:
        """Forget all but the first `columns` columns."""
        if self.columns is not None:
            self._keep(self.columns[:, :columns])
        self._last_mask = None

    def _keep(self, columns: torch.Tensor) -> None:
        """Remember `columns` bool `[B, columns seen]`; None stands for rows without padding."""
        self.columns = None if bool(columns.all()) else columns

    def select(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices` (int64, or bool `[B]`), in that order."""
        if self.columns is not None:
            self._keep(self.columns[indices.cpu()])
        self._last_mask = None

    def repeat(self, repeats: int) -> None:
        """Repeat every row `repeats` times."""
        if self.columns is not None:
            self.columns = self.columns.repeat_interleave(repeats, dim=0)
        self._last_mask = None
