# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What `vecinfer serve` refuses before a model is loaded."""

import pytest
from command_line import error_line

from vecinfer_hf.integration import continuous_batching


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--attn-implementation", "sdpa"], "--attn-implementation has no effect with codes"),
        (["--no-continuous-batching"], "--no-continuous-batching has no effect"),
        (["--codebook", "./no/such/codebook"], "no/such/codebook"),
        (["--codebook", "SmolLM2-135M-Instruct/2bit", "--trust", "me"], "--trust has an effect only with"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_loaded(words, message, vecinfer):
    assert message in error_line(vecinfer("serve", "no-such-model", *words))


def test_another_transformers_is_told(monkeypatch, vecinfer):
    monkeypatch.setattr(continuous_batching, "VERSION", "5.17.0")
    assert (
        "5.17.0 is installed; continuous batching on codes is tested with 5.24 only"
        in continuous_batching.why_unsupported()
    )
    line = vecinfer("serve", "no-such-model", "--codebook", "SmolLM2-135M-Instruct/2bit")
    assert "5.17.0 is installed" in error_line(line)
