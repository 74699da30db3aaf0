# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Pages of a text in a file: computed once, they serve every request that begins with the text, in any process.

Owns what of a paged cache goes into the file and back: whole sections, their header, and the tokens that name them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..cache.page_layout import PageLayout
from ..cache.saved import read_saved, write_saved
from ..codebook.codebook import Codebook
from ..errors import SavedCacheError, UnsupportedCallError
from .paged_cache import VecInferPagedCache


def save_pages(cache: VecInferPagedCache, codebook: Codebook, tokens: list[int], path: str | Path) -> int:
    """Write the pages of the whole sections of a text that the cache knows; returns the tokens that they hold.

    Raises:
        UnsupportedCallError: if the cache does not know a whole section of the text.
        SavedCacheError: if the file cannot be written.
    """
    # Transformers leaves the last token of a prompt to be computed.
    matched = cache.codes.match_prefix_blocks([*tokens, 0])
    header, rule = cache.codes.header_blocks, cache.layout.rule
    pages = max(len(matched) - header, 0) // rule.share_pages * rule.share_pages
    if not pages:
        raise UnsupportedCallError(
            f"The cache knows no whole section of this text of {len(tokens)} tokens; a section has "
            f"{rule.share_tokens}. Let a request that begins with the text end first."
        )
    blocks = torch.tensor(matched[: header + pages], device=cache.device)
    held = pages * rule.page_tokens
    tensors = {
        "blocks": cache.codes._copy_view.index_select(0, blocks),
        "input_ids": torch.tensor(tokens[:held], dtype=torch.int64),
    }
    write_saved(Path(path), "pages", codebook, _about(cache.layout, cache.dtype), tensors)
    return held


def load_pages(cache: VecInferPagedCache, codebook: Codebook, path: str | Path) -> int:
    """Make saved pages known to a cache, for requests to come; returns the tokens that they hold.

    Raises:
        SavedCacheError: for a damaged file, or one of another codebook, model, dtype or page rule.
        UnsupportedCallError: if sharing is off, or there is no room.
    """
    if not cache.use_prefix_sharing:
        raise UnsupportedCallError(
            "Saved pages are shared between requests, which is off here (allow_block_sharing=False, or a model with "
            "sliding-window layers)."
        )
    header, tensors = read_saved(Path(path), "pages", codebook)
    mine = _about(cache.layout, cache.dtype)
    for name, value in mine.items():
        if header.get(name) != value:
            raise SavedCacheError(
                f"{path} has {name} {header.get(name)}, but this cache has {value}; use the options it was made with."
            )
    codes, tokens, data = cache.codes, tensors["input_ids"].tolist(), tensors["blocks"]
    if len(codes.match_prefix_blocks([*tokens, 0])) == len(data):
        return len(tokens)
    missing = len(data) - cache.pool.count_free_blocks(codes.index)
    sectors = max(-(-missing // codes.blocks_per_sector), 0)
    if sectors > cache.pool.num_free_sectors:
        raise UnsupportedCallError(
            f"{path} needs {len(data)} pages, but the cache has {codes.count_pages()['free']} free ones; raise "
            "num_blocks, or load it before requests come."
        )
    for _ in range(sectors):
        cache.pool.allocate_sector(codes.index)
    name = f"saved pages {path}"
    codes.block_table[name] = cache.pool.get_free_blocks(codes.index, len(data))
    index = torch.tensor(codes.block_table[name], device=cache.device)
    codes._copy_view.index_copy_(0, index, data.to(cache.device))
    codes.mark_complete_blocks(name, tokens, len(tokens) // codes.tokens_per_page)
    # Nobody uses them yet: they are kept like pages of requests that have ended.
    codes.free_blocks(name)
    return len(tokens)


def _about(layout: PageLayout, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "rule": list(layout.rule),
        "sink_length": layout.sink_length,
        "bytes_per_block": layout.bytes_per_block,
        "dtype": str(dtype).removeprefix("torch."),
    }
