# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Models and codebooks of a given shape with random numbers in them: time and memory do not depend on the numbers."""

from __future__ import annotations

import torch
from transformers import AutoConfig, LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen3Config

from ..calibration_config import CalibrationConfig
from ..codebook.codebook import Codebook
from ..model_info import HeadShape, model_identity, unsupported_reason
from ..model_info.auto_class import auto_class
from ..ops.types import LayerCodebook
from ..quantization.formats import parse_format
from ..quantization.transforms import query_from_key_transform


LLAMA_8B = "llama-3.1-8b"
"""The shape of Llama 3.1 8B, known here because its repository asks for a login."""
QWEN3_32B = "qwen3-32b"
"""The shape of Qwen3 32B, known here for benchmarks without a network."""


def shape_config(name: str) -> PreTrainedConfig:
    """Return the config of a shape: "llama-3.1-8b", "qwen3-32b", a directory with a config.json, or a Hub model.

    Raises:
        ValueError: if its cache cannot be quantized.
    """
    if name == LLAMA_8B:
        config = LlamaConfig(
            vocab_size=128256,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=1 << 21,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        )
    elif name == QWEN3_32B:
        config = Qwen3Config(
            vocab_size=151936,
            hidden_size=5120,
            intermediate_size=25600,
            num_hidden_layers=64,
            num_attention_heads=64,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=1 << 21,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        )
    else:
        config = AutoConfig.from_pretrained(name)
    reason = unsupported_reason(config)
    if reason:
        raise ValueError(f"No VecInfer cache for {name}: {reason}.")
    return config


def random_model(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Return a model of this shape with random weights, made on `device`; torch's random state stays as it was."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        model = auto_class(config).from_config(config, dtype=dtype)
    # Random weights choose random tokens; one that ends the text would end the measurement.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def random_codebook(config: PreTrainedConfig, bits: float | str) -> Codebook:
    """Return a codebook of the model's shape with normally distributed centroids."""
    identity, fmt = model_identity(config), parse_format(bits)
    generator = torch.Generator().manual_seed(0)

    def centroids(heads: int) -> torch.Tensor:
        shape = (heads, fmt.num_codes, fmt.codebook_size, fmt.subvector_dim)
        return (torch.randn(shape, generator=generator) * 40).round().clamp(-127, 127).to(torch.int8)

    def layer(shape: HeadShape) -> LayerCodebook:
        heads = shape.num_key_value_heads
        scale, unit = torch.ones(heads, shape.key_head_dim), torch.full((heads,), 1 / 40)
        keys = None, scale, query_from_key_transform(scale), centroids(heads), unit
        return LayerCodebook(*keys, None, None, None, centroids(heads), unit.clone())

    layers = {index: layer(shape) for index, shape in identity.layers.items()}
    return Codebook(CalibrationConfig(key_bits=bits, value_bits=bits), identity, layers)
