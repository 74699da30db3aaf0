# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The texts of a batch, as all layers of a paged cache share them: blocks and slots, on the host and on the device."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch

from ..ops.to_device import to_device, to_device_int32
from .page_layout import PageLayout


class TextBlocks:
    """The blocks of one text, on the host and, once asked for, on the device.

    Args:
        header: block numbers of its sinks.
        pages: block number of each page, page 0 first.
        device: where the pages are.
    """

    def __init__(self, header: list[int], pages: list[int], device: torch.device):
        self.header, self.pages, self.device = header, pages, device

    @cached_property
    def header_index(self) -> torch.Tensor:
        """The header's blocks, int64 `[H]`."""
        return to_device(self.header, self.device)

    @cached_property
    def page_index(self) -> torch.Tensor:
        """The pages' blocks, int32 `[pages]`."""
        return to_device_int32(self.pages, self.device)


class DecodeRows(NamedTuple):
    """Texts that get one token each, as the operators take them. `R` slots, the lowest ones, of which some are used.

    Args:
        slots: int64 `[n]`, the texts' slots.
        places: int64 `[n]`, where their new tokens lie among their exact ones.
        in_order: whether `slots` is 0, 1, 2, ...
        lengths: int32 `[R]`, tokens of each slot's text, the new one included; 1 for a slot that is not used.
        quantized: int32 `[R]`, those of them that are read as codes.
        table: int32 `[R, pages]`, blocks of the pages that are read as codes.
    """

    slots: torch.Tensor
    places: torch.Tensor
    in_order: bool
    lengths: torch.Tensor
    quantized: torch.Tensor
    table: torch.Tensor


def decode_rows(
    slots: list[int], tokens: list[int], blocks: list[TextBlocks], layout: PageLayout, device: torch.device
) -> DecodeRows:
    """Return the rows of a decode step.

    Args:
        slots: the texts' slots.
        tokens: tokens of each text before the new one.
        blocks: their blocks.
        layout: the sizes.
        device: where the pages are.
    """
    size, sinks, ring = layout.page_tokens, layout.sink_length, layout.rule.exact_tokens
    places = [token if token < sinks else sinks + (token - sinks) % ring for token in tokens]
    # Rows in the order of the slots: exact tokens are read where they are.
    rows = max(slots) + 1
    # A slot that is not used is read as one token, which no kernel needs to treat apart.
    lengths, quantized, pages = [1] * rows, [0] * rows, [[0]] * rows
    for slot, token, own in zip(slots, tokens, blocks, strict=True):
        coded = layout.rule.first_exact(token // size)
        lengths[slot] = token + 1
        if coded:
            quantized[slot] = coded * size - sinks
            # Every query sees every code, so their order is free: page 0, which the sinks leave room in, comes last.
            pages[slot] = own.pages[1:coded] + own.pages[:1]
    width = max(len(row) for row in pages)
    table = [row + [0] * (width - len(row)) for row in pages]
    index = to_device([slots, places], device)
    counts = to_device_int32([lengths, quantized], device)
    in_order = slots == list(range(rows))
    return DecodeRows(index[0], index[1], in_order, counts[0], counts[1], to_device_int32(table, device))


class BatchRow(NamedTuple):
    """One text's part of a batch.

    Args:
        slot: its slot of exact tokens.
        past: tokens stored before this batch.
        count: new tokens.
        begin: place of the first new token in the packed batch.
        blocks: its blocks, with room for the new tokens.
        load_sinks: whether the slot does not have the sinks of page 0 yet.
    """

    slot: int
    past: int
    count: int
    begin: int
    blocks: TextBlocks
    load_sinks: bool


class Batch:
    """The rows of one forward pass, and what all layers share of them.

    Args:
        rows: the texts, in the order of the packed tokens.
        layout: the sizes of pages.
        device: where the pages are.
    """

    def __init__(self, rows: list[BatchRow], layout: PageLayout, device: torch.device):
        self.rows, self.layout, self.device = rows, layout, device
        self.single = [row for row in rows if row.count == 1]
        self.several = [row for row in rows if row.count > 1]

    @cached_property
    def decode_rows(self) -> DecodeRows:
        """The rows of one new token for the operators."""
        rows = self.single
        return decode_rows(
            [row.slot for row in rows],
            [row.past for row in rows],
            [row.blocks for row in rows],
            self.layout,
            self.device,
        )

    @cached_property
    def single_places(self) -> slice | torch.Tensor:
        """Where the rows of one new token are in the packed batch."""
        places = [row.begin for row in self.single]
        first = places[0]
        if places == list(range(first, first + len(places))):
            return slice(first, first + len(places))
        return to_device(places, self.device)
