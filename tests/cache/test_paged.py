# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Pages of one layer: their bytes depend on the tokens alone, and what attends over them is the page rule's."""

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf import ConfigError
from vecinfer_hf.cache.page_layout import page_layout
from vecinfer_hf.cache.paged import PagedStorage
from vecinfer_hf.cache.paged_layer import PagedLayer
from vecinfer_hf.cache.paged_rows import Batch, BatchRow, TextBlocks
from vecinfer_hf.ops.backend import backend


TOKENS, HEADS, DIM, POOL, SECTION = 300, 2, 16, 60, 128
CUTS = {
    "one call": [TOKENS],
    "one by one": [1] * TOKENS,
    "mixed": [37, 1, 1, 60, 100, 1, 1, 99],
    "pages": [64] * 4 + [44],
}


class Text:
    """A layer with one text in some slot and random blocks, fed in pieces.

    Args:
        codebook: the codebook.
        page_tokens: tokens of a page.
        sinks: exact early tokens.
        window: recent tokens that are exact at least.
        slot: the text's slot.
        seed: of the blocks' order and of what they held before.
    """

    def __init__(self, codebook, page_tokens, sinks, window=40, slot=0, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.layout = page_layout(codebook, page_tokens, sinks, torch.float32, window, SECTION)
        pool = torch.randint(0, 255, (POOL, self.layout.part(0).stop), dtype=torch.uint8, generator=generator)
        layer_codebook = codebook.layer(0, torch.device("cpu"))
        self.storage = PagedStorage(
            pool, self.layout, 3, HEADS, (DIM, DIM), codebook.formats(0), layer_codebook, "small_values",
            backend("reference"), torch.float32,
        )  # fmt: skip
        order = torch.randperm(POOL, generator=generator).tolist()
        header = self.layout.header_blocks
        self.blocks = self.text_blocks(order[:header], order[header : header + -(-TOKENS // page_tokens)])
        self.layer, self.slot, self.past = PagedLayer(0, self.storage), slot, 0

    @staticmethod
    def text_blocks(header, pages):
        return TextBlocks(header, pages, torch.device("cpu"))

    def feed(self, query, keys, values, cut, load_sinks=False):
        """Return the attention `[1, T, Hq, D]` of all tokens that `cut` takes."""
        outputs = []
        for count in cut:
            part = slice(self.past, self.past + count)
            row = BatchRow(self.slot, self.past, count, 0, self.blocks, load_sinks)
            batch = Batch([row], self.layout, torch.device("cpu"))
            new = self.layer.update(keys[:, :, part], values[:, :, part], batch)
            outputs.append(self.layer.attend(None, query[:, :, part], *(handle.states for handle in new), None, 0.25))
            self.past, load_sinks = self.past + count, False
        return torch.cat(outputs, 1)

    def page_bytes(self):
        """The bytes of every block of full pages and of the header."""
        full = self.past // self.layout.page_tokens
        used = self.layout.layer_bytes[0]
        return self.storage.pool[self.blocks.header], self.storage.pool[self.blocks.pages[:full]][:, :used]


@pytest.fixture(scope="module")
def codebook():
    return random_codebook(tiny_config("llama"), mean=True)


def states(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (4, HEADS, HEADS)
    return [torch.randn(1, heads, TOKENS, DIM, generator=generator) for heads in shapes]


@pytest.mark.parametrize(("page_tokens", "sinks", "window"), [(32, 0, 0), (32, 4, 0), (32, 4, 64), (64, 4, 40)])
def test_pages_do_not_depend_on_how_a_text_is_cut_or_where_it_lies(codebook, page_tokens, sinks, window):
    text = states()
    first = Text(codebook, page_tokens, sinks, window)
    expected = first.feed(*text, CUTS["one call"])
    for number, cut in enumerate(CUTS.values()):
        other = Text(codebook, page_tokens, sinks, window, slot=number % 3, seed=number)
        output = other.feed(*text, cut)
        # Sums of up to 300 float32 products in other orders.
        assert (output - expected).abs().max() < 300 * 2**-23 * 4
        for mine, its in zip(first.page_bytes(), other.page_bytes(), strict=True):
            assert torch.equal(mine, its)


def test_pages_depend_on_no_later_token(codebook):
    text, changed = states(), states()
    for each in changed:
        each[:, :, 200:] = torch.randn_like(each[:, :, 200:])
    one, other = Text(codebook, 32, 4), Text(codebook, 32, 4, seed=1)
    one.feed(*text, [TOKENS])
    other.feed(*changed, [TOKENS])
    (header, pages), (other_header, other_pages) = one.page_bytes(), other.page_bytes()
    assert torch.equal(header, other_header)
    assert torch.equal(pages[:6], other_pages[:6])
    assert not torch.equal(pages[6], other_pages[6])


def test_a_section_and_the_window_say_what_is_exact(codebook):
    """Codes of other tokens change exactly those outputs that read them as codes."""
    text = states()
    expected = Text(codebook, 32, 4, window=64).feed(*text, [TOKENS])
    for page, readers in ((1, range(128, TOKENS)), (4, range(7 * 32, TOKENS)), (3, range(128, TOKENS))):
        one = Text(codebook, 32, 4, window=64)
        close = one.storage.close_pages

        def damaged(slot, first, keys, values, blocks, page=page, one=one, close=close):
            close(slot, first, keys, values, blocks)
            one.storage.pool[blocks.pages[page]] ^= 0x55

        one.storage.close_pages = damaged
        output = one.feed(*text, [TOKENS])
        changed = (output != expected).flatten(2).any(2)[0].nonzero().flatten().tolist()
        assert changed == list(readers)


def test_a_text_goes_on_over_blocks_that_another_one_filled(codebook):
    """A slot that did not see page 0 takes its sinks from the header."""
    text = states()
    whole, second = Text(codebook, 32, 4), Text(codebook, 32, 4, slot=2, seed=1)
    expected = whole.feed(*text, [TOKENS])
    second.storage.pool, second.storage.codes = whole.storage.pool, whole.storage.codes
    second.blocks, second.past = whole.blocks, SECTION
    again = second.feed(*text, [50, 1, 40], load_sinks=True)
    assert (again - expected[:, SECTION : SECTION + 91]).abs().max() < 300 * 2**-23 * 4


def test_a_forked_slot_goes_on_by_itself(codebook):
    text = states()
    one = Text(codebook, 32, 4)
    expected = one.feed(*text, [120])
    one.storage.copy_slots([(0, 1), (0, 2)])
    branch = one.blocks.pages[3]
    one.feed(*text, [1, 30])
    one.past, one.slot = 120, 2
    one.blocks = one.text_blocks(one.blocks.header, [*one.blocks.pages[:3], 59, *one.blocks.pages[4:]])
    assert branch != 59
    again = one.feed(*text, [50])
    other = Text(codebook, 32, 4)
    assert (torch.cat([expected, again], 1) - other.feed(*text, [170])).abs().max() < 300 * 2**-23 * 4


def test_rows_of_one_batch_do_not_see_each_other(codebook):
    """A batch of prompts and single tokens gives each row what it gets alone."""
    texts = [states(seed) for seed in range(3)]
    alone = []
    for number, text in enumerate(texts):
        one = Text(codebook, 32, 4, seed=number)
        one.feed(*text, [60 + number])
        alone.append(one.feed(*text, [(1, 40, 1)[number]]))
    together = Text(codebook, 32, 4)
    order = list(range(POOL))
    rows, packed, begin = [], [[], [], []], 0
    for number, text in enumerate(texts):
        together.slot, together.past = number, 0
        own = order[number * 20 : number * 20 + 20]
        together.blocks = together.text_blocks(own[:2], own[2:])
        together.feed(*text, [60 + number])
        count = (1, 40, 1)[number]
        rows.append(BatchRow(number, 60 + number, count, begin, together.blocks, False))
        for part, each in zip(packed, text, strict=True):
            part.append(each[:, :, 60 + number : 60 + number + count])
        begin += count
    query, keys, values = (torch.cat(parts, 2) for parts in packed)
    new = together.layer.update(keys, values, Batch(rows, together.layout, torch.device("cpu")))
    output = together.layer.attend(None, query, *(handle.states for handle in new), None, 0.25)
    assert (output - torch.cat(alone, 1)).abs().max() < 300 * 2**-23 * 4


@pytest.mark.parametrize("page_tokens", [0, 31, 48, 100])
def test_a_page_that_is_no_multiple_of_a_tile_is_refused(codebook, page_tokens):
    with pytest.raises(ConfigError, match=f"page_size is {page_tokens}.*multiple of 32"):
        page_layout(codebook, page_tokens, 4, torch.float32)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("sinks", [0, 1, 4, 16])
def test_the_header_has_room_for_all_sinks(bits, sinks):
    layout = page_layout(random_codebook(tiny_config("llama"), bits, bits), 32, sinks, torch.float32)
    part = layout.part(0)
    needed = sinks * HEADS * 2 * DIM * 4
    assert needed <= layout.header_blocks * (part.stop - part.start) < needed + part.stop - part.start


def test_layers_of_different_formats_take_their_own_room():
    config = tiny_config("llama", num_hidden_layers=3)
    layout = page_layout(random_codebook(config, layer_bits=[[2, 2], [4, 1], [1, 1]]), 64, 4, torch.float32)
    parts = [layout.part(layer) for layer in range(3)]
    for layer, (part, following) in enumerate(zip(parts, [*parts[1:], None], strict=True)):
        assert layout.layer_bytes[layer] <= part.stop - part.start < layout.layer_bytes[layer] + 128
        assert part.start % 128 == 0
        assert part.stop == (following.start if following else part.stop)
    assert parts[-1].stop <= layout.bytes_per_block < parts[-1].stop + 3 * 128
    assert layout.bytes_per_block % 3 == 0
    assert layout.wasted_bytes == layout.bytes_per_block - sum(layout.layer_bytes.values())
