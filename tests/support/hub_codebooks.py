# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Small codebooks for the Hub tests: right in form and fitting tiny_models' llama, not calibrated."""

from dataclasses import replace

from tiny_codebooks import random_codebook
from tiny_models import tiny_config

from vecinfer_hf import Codebook


def tiny_codebook(seed: int = 0, bits: float = 2, name: str | None = "org/tiny-llama", **config) -> Codebook:
    """Return a codebook of random centroids for the tiny llama, named as a model of the Hub.

    Args:
        seed: seed.
        bits: bits per element of keys and values.
        name: the model's name.
        config: other options of its CalibrationConfig.
    """
    codebook = random_codebook(tiny_config("llama"), bits, bits, seed=10 * seed)
    # As it is read from a file: the scale is stored, its reciprocal is computed.
    for index, layer in codebook.layers.items():
        codebook.layers[index] = layer._replace(key_transform=1 / layer.query_transform)
    codebook.identity = replace(codebook.identity, name=name or "")
    codebook.config = replace(codebook.config, **config)
    codebook.provenance = {
        "license": "apache-2.0",
        "texts": [{"name": "a text", "sha256": "00"}],
        "errors": [{"layer": index, "key": 0.05 + 0.01 * index, "value": 0.08} for index in codebook.layers],
    }
    quality = {"text": "held out", "tokens": 4096, "ppl_stock": 12.5, "ppl_vecinfer": 12.9, "ratio": 1.032}
    codebook.metrics = {"quality": [quality]}
    return codebook
