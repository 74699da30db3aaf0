# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The check of a release finds links that a package index cannot follow. `make release` runs the rest."""

import email

import pytest

from examples.release import check


ADDRESS = "https://github.com/vecinfer/vecinfer-hf"


@pytest.mark.parametrize(
    ("target", "wrong"),
    [
        (f"{ADDRESS}/blob/main/METHOD.md#1-make", False),
        (f"{ADDRESS}/blob/main/NOTHING.md", True),
        ("https://raw.githubusercontent.com/vecinfer/vecinfer-hf/main/examples/benchmarks/end_to_end_h100.svg", False),
        ("METHOD.md", True),
        ("#quality", False),
        ("https://arxiv.org/abs/2510.06175", False),
        ("http://example.org", True),
    ],
)
def test_links_of_a_description(target, wrong):
    text = f"Name: x\nProject-URL: Repository, {ADDRESS}\n\nA [link]({target}).\n"
    assert check.wrong_links(email.message_from_string(text)) == ([target] if wrong else [])
