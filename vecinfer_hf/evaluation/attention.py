# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Switch a model's attention for a while and put it back. Owns nothing about what the implementations do."""

from __future__ import annotations

from contextlib import contextmanager

from transformers import PreTrainedModel


@contextmanager
def attention_set_to(model: PreTrainedModel, name: str):
    """Run the model with the attention implementation `name` inside the `with` block."""
    before = model.config._attn_implementation
    if before != name:
        model.set_attn_implementation(name)
    try:
        yield
    finally:
        if before != name:
            model.set_attn_implementation(before)
