# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of `generate` share: options, a padded batch, and a call."""

import torch
from tiny_models import tiny_inputs


LONG = {"residual_length": 512, "ops_backend": "reference"}
"""Codes switched off: a window longer than any text here."""
SHORT = {"residual_length": 16, "ops_backend": "reference"}


def padded_batch(length=30, paddings=(0, 7, 21)):
    ids, mask = tiny_inputs(len(paddings), length), torch.ones(len(paddings), length, dtype=torch.long)
    for row, padding in enumerate(paddings):
        ids[row, :padding], mask[row, :padding] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def greedy(model, tokens=30, **kwargs):
    return model.generate(max_new_tokens=tokens, do_sample=False, **kwargs)


def with_vecinfer(codebook, options, **kwargs):
    return {"cache_implementation": "vecinfer", "cache_config": {"codebook": codebook, **options}, **kwargs}
