# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Small codebooks for the Hub tests: right in form and fitting tiny_models' llama, not calibrated."""

import torch
from tiny_models import tiny_config

from vecinfer_hf import Codebook, VecInferConfig
from vecinfer_hf.model_info import model_identity
from vecinfer_hf.ops.types import LayerCodebook


def tiny_codebook(seed: int = 0, bits: float = 2, name: str = "org/tiny-llama", **config) -> Codebook:
    """Return a codebook of random centroids for the tiny llama, named as a model of the Hub."""
    generator = torch.Generator().manual_seed(seed)
    model_config = tiny_config("llama")
    identity = model_identity(model_config) | {"name": name}
    options = VecInferConfig(key_bits=bits, value_bits=bits, **config)
    heads, dim = identity["num_key_value_heads"], identity["head_dim"]
    layers = {}
    for index, (key, value) in zip(identity["quantized_layers"], options.formats(2), strict=True):
        scale = torch.rand(heads, dim, generator=generator) + 0.5

        def centroids(fmt):
            shape = (heads, fmt.num_codes, fmt.codebook_size, fmt.subvector_dim)
            return torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)

        steps = torch.full((2, heads), 0.02).unbind()
        layers[index] = LayerCodebook(
            None, 1 / scale, scale, centroids(key), steps[0], None, None, None, centroids(value), steps[1].clone()
        )
    errors = [{"layer": index, "key": 0.05 + 0.01 * index, "value": 0.08} for index in layers]
    quality = [{"text": "held out", "tokens": 4096, "ppl_stock": 12.5, "ppl_vecinfer": 12.9, "ratio": 1.032}]
    provenance = {"license": "apache-2.0", "texts": [{"name": "a text", "sha256": "00"}], "errors": errors}
    return Codebook(options, identity, layers, provenance, {"quality": quality})
