# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""API.md is what the docstrings say, and has every public name."""

import re

import vecinfer_hf
from examples.release import api_page


def test_the_page_is_up_to_date():
    assert api_page.PAGE.read_text(encoding="utf-8") == api_page.page(), "run `make api`"


def test_it_has_every_public_name():
    shown = {name for _, names in api_page.SECTIONS.values() for name in names}
    assert set(vecinfer_hf.__all__) - {"__version__"} <= shown


def test_every_argument_is_described():
    """A parameter of a public function or method with an `Args:` section stands in it."""
    for block in re.split(r"^#{3,4} ", api_page.page(), flags=re.MULTILINE)[1:]:
        given = re.findall(
            r"^    \**(\w+)(?=[:=,])", block.partition("```python")[2].partition("```")[0], re.MULTILINE
        )
        described = {
            name for line in re.findall(r"^- (`.*?):", block, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)
        }
        if described & set(given):
            assert set(given) <= described, block.partition("\n")[0]


def test_sections_of_a_docstring_become_lists():
    def example(number: int, *, name: "str" = "x", **rest) -> int:
        """Return it.

        Args:
            number, name: two
                lines (see `rest`).
            rest (any): more.

        Returns:
            A number.

        Raises:
            ValueError: if not.
        """

    assert api_page.entry("example", example) == (
        "### example\n\n```python\nexample(number: int, *, name: str = 'x', **rest) -> int\n```\n\nReturn it.\n\n"
        "- `number`, `name`: two lines (see `rest`).\n- `rest` (any): more.\n\nReturns: A number.\n\n"
        "Raises:\n- `ValueError`: if not.\n"
    )
