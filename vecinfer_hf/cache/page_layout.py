# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""How many bytes a page takes, and where the sinks of a text lie: sizes only, for any engine that hands out pages.

    block of page 0    [ layer 0: tiles | layer 1: tiles | ... ]    N tokens less the sinks
    block of page p    [ layer 0: tiles | layer 1: tiles | ... ]    N tokens
    header blocks      [ layer 0: sinks | layer 1: sinks | ... ]    exact; beside page 0, with its life

The bytes of a block depend on the tokens up to its page's end alone, so blocks are shared, copied and moved as bytes.
"""

from __future__ import annotations

from math import lcm
from typing import NamedTuple

import torch

from ..attention.page_rule import PageRule
from ..codebook.codebook import Codebook
from ..errors import ConfigError
from ..quantization.packing import TILE, bytes_per_tile


SHARE_TOKENS = 1024
"""Tokens of a section, after which texts may share what comes before; see `PageRule`."""
ALIGNMENT = 128
"""Bytes to which the part of a layer in a block is rounded up."""


class PageLayout(NamedTuple):
    """The sizes of the pages of one model. Layers may have different formats, and take room in a block accordingly.

    Args:
        rule: which tokens are read exactly.
        sink_length: exact early tokens.
        layer_bytes: bytes of each layer's tiles in a block, by layer.
        header_blocks: blocks that hold the sinks of a text.
        tail_bytes: bytes of one request's exact tokens in all layers, sinks included.
    """

    rule: PageRule
    sink_length: int
    layer_bytes: dict[int, int]
    header_blocks: int
    tail_bytes: int

    @property
    def page_tokens(self) -> int:
        """N, tokens of a page."""
        return self.rule.page_tokens

    def part(self, layer: int) -> slice:
        """Return the bytes of a block that belong to a layer."""
        begin = sum(_aligned(size) for index, size in self.layer_bytes.items() if index < layer)
        return slice(begin, begin + _aligned(self.layer_bytes[layer]))

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block: a page of all layers. A multiple of the number of layers, as transformers divides it."""
        whole = sum(_aligned(size) for size in self.layer_bytes.values())
        step = lcm(ALIGNMENT, len(self.layer_bytes))
        return -(-whole // step) * step

    @property
    def wasted_bytes(self) -> int:
        """Bytes of a block that no layer uses."""
        return self.bytes_per_block - sum(self.layer_bytes.values())


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def check_page_tokens(page_tokens: int, sink_length: int) -> None:
    """Raise ConfigError unless pages of `page_tokens` tokens can hold tiles, and `sink_length` sinks."""
    if page_tokens < TILE or page_tokens % TILE:
        raise ConfigError(
            f"page_size is {page_tokens}, but a page of codes is made of tiles of {TILE} tokens; give a multiple of "
            f"{TILE}, such as {max(TILE, page_tokens // TILE * TILE)}."
        )
    if sink_length >= page_tokens:
        raise ConfigError(
            f"sink_length is {sink_length}, but sinks are chosen from the first page, which has {page_tokens} tokens; "
            "give fewer sinks or a larger page_size."
        )


def page_layout(
    codebook: Codebook,
    page_tokens: int,
    sink_length: int,
    dtype: torch.dtype,
    residual_length: int = 0,
    share_tokens: int = SHARE_TOKENS,
) -> PageLayout:
    """Return the sizes of pages of `page_tokens` tokens.

    Args:
        codebook: the model's codebook.
        page_tokens: tokens of a page.
        sink_length: exact early tokens.
        dtype: dtype of exact keys and values.
        residual_length: recent tokens that are read exactly at least, except where a section begins.
        share_tokens: tokens of a section, rounded up to pages; see `PageRule`.

    Raises:
        ConfigError: for a page that is no multiple of a tile, or has no room for its sinks.
    """
    check_page_tokens(page_tokens, sink_length)
    exact_pages = -(-residual_length // page_tokens)
    rule = PageRule(page_tokens, exact_pages, max(-(-share_tokens // page_tokens), exact_pages + 1))
    layer_bytes, exact = {}, {}
    for index in codebook.layers:
        shape = codebook.head_shape(index)
        tile = bytes_per_tile(*codebook.formats(index), shape.key_head_dim, shape.value_head_dim)
        layer_bytes[index] = shape.num_key_value_heads * tile * page_tokens // TILE
        exact[index] = shape.num_key_value_heads * (shape.key_head_dim + shape.value_head_dim) * dtype.itemsize
    header_blocks = max(-(-sink_length * exact[index] // _aligned(layer_bytes[index])) for index in layer_bytes)
    tail_bytes = (rule.exact_tokens + sink_length) * sum(exact.values())
    return PageLayout(rule, sink_length, layer_bytes, header_blocks, tail_bytes)
