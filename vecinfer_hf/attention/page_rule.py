# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""PageRule: which tokens of a text are read exactly and which as codes, by their places alone.

    page      0   1   2   3 | 4   5   6   7 |        exact_pages 1, share_pages 4
    token of page 3 sees    codes 0 1, exact 2 3
    token of page 4 sees    codes 0 1 2 3, exact 4
    token of page 6 sees    codes 0 1 2 3 4, exact 5 6

Every `share_pages` pages the exact tokens begin anew, so that a text can go on from there over codes of others.
"""

from __future__ import annotations

from typing import NamedTuple


class PageRule(NamedTuple):
    """The rule of one cache.

    Args:
        page_tokens: tokens of a page.
        exact_pages: pages before a token's own that it reads exactly, as far as its section goes.
        share_pages: pages of a section; texts share whole sections.
    """

    page_tokens: int
    exact_pages: int
    share_pages: int

    def first_exact(self, page: int) -> int:
        """Return the first page that tokens of `page` read exactly; earlier ones are read as codes."""
        return max(self.section(page), page - self.exact_pages)

    def section(self, page: int) -> int:
        """Return the first page of the section that `page` is in."""
        return page // self.share_pages * self.share_pages

    @property
    def exact_tokens(self) -> int:
        """The most tokens that are held exactly, sinks apart."""
        return (self.exact_pages + 1) * self.page_tokens

    @property
    def share_tokens(self) -> int:
        """Tokens of a section."""
        return self.share_pages * self.page_tokens
