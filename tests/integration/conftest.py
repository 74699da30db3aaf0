# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of `generate`."""

import pytest
from tiny_codebooks import random_codebook


@pytest.fixture
def codebooks(tmp_path):
    """Save a random codebook for a model and return its directory."""

    def save(model):
        directory = tmp_path / f"codebook-{model.config.model_type}-{model.config.num_key_value_heads}"
        if not directory.exists():
            random_codebook(model.config).save_pretrained(directory)
        return str(directory)

    return save
