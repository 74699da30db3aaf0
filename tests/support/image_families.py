# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny vision-language models and prompts with one image: configs, placeholder tokens and pixels of each family."""

from __future__ import annotations

from typing import Any

import torch


_TEXT = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
_IMAGE, _START, _END = 93, 94, 95
_QWEN = {"image_token_id": _IMAGE, "video_token_id": 96, "vision_start_token_id": _START, "vision_end_token_id": _END}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
_CLIP = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "model_type": "clip_vision_model",
}

IMAGE_FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen2_5_vl": (
        "Qwen2_5_VLConfig",
        "Qwen2_5_VLForConditionalGeneration",
        {
            **_QWEN,
            "text_config": {**_TEXT, "rope_parameters": _MROPE},
            "vision_config": {
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 2,
                "out_hidden_size": 64,
                "fullatt_block_indexes": [1],
                "window_size": 56,
            },
        },
    ),
    "qwen3_vl": (
        "Qwen3VLConfig",
        "Qwen3VLForConditionalGeneration",
        {
            **_QWEN,
            "text_config": {**_TEXT, "head_dim": 16, "rope_parameters": _MROPE},
            "vision_config": {
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 2,
                "out_hidden_size": 64,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
        },
    ),
    "gemma3_image": (
        "Gemma3Config",
        "Gemma3ForConditionalGeneration",
        {
            "text_config": {
                **_TEXT,
                "head_dim": 16,
                "layer_types": ["sliding_attention", "full_attention"],
                "sliding_window": 24,
            },
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 56,
                "patch_size": 14,
            },
            "mm_tokens_per_image": 4,
            "image_token_index": _IMAGE,
            "boi_token_index": _START,
            "eoi_token_index": _END,
        },
    ),
    "llava": (
        "LlavaConfig",
        "LlavaForConditionalGeneration",
        {
            "text_config": {**_TEXT, "head_dim": 16, "model_type": "llama"},
            "vision_config": _CLIP,
            "image_token_index": _IMAGE,
            "image_seq_length": 4,
        },
    ),
    "mllama": (
        "MllamaConfig",
        "MllamaForConditionalGeneration",
        {
            "text_config": {
                **_TEXT,
                "num_hidden_layers": 3,
                "cross_attention_layers": [1],
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            },
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_global_layers": 1,
                "attention_heads": 2,
                "vision_output_dim": 64,
                "image_size": 28,
                "patch_size": 14,
                "intermediate_layers_indices": [0],
                "max_num_tiles": 4,
            },
            "image_token_index": _IMAGE,
        },
    ),
}
"""Family -> config class, model class, config."""

_TOKENS = {"qwen2_5_vl": 4, "qwen3_vl": 4, "gemma3_image": 4, "llava": 4, "mllama": 1}
"""Placeholder tokens of one image."""


def image_inputs(name: str, ids: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return keyword arguments of generate for token ids `[B, T]`, each row with one random image near its start."""
    batch, tokens = ids.shape[0], _TOKENS[name]
    ids = ids.clone()
    ids[:, 2], ids[:, 3 : 3 + tokens], ids[:, 3 + tokens] = _START, _IMAGE, _END
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    is_image = (ids == _IMAGE).long()

    def pixels(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    if name.startswith("qwen"):
        patch = 14 if name == "qwen2_5_vl" else 16
        grid = torch.tensor([[1, 4, 4]]).expand(batch, -1)
        values = pixels(batch * 16, 3 * 2 * patch * patch)
        return {**inputs, "pixel_values": values, "image_grid_thw": grid, "mm_token_type_ids": is_image}
    if name == "gemma3_image":
        return {**inputs, "pixel_values": pixels(batch, 3, 56, 56), "token_type_ids": is_image}
    if name == "llava":
        return {**inputs, "pixel_values": pixels(batch, 3, 28, 28)}
    seen = torch.zeros(*ids.shape, 1, 4, dtype=torch.long)
    seen[:, 3:, 0, 0] = 1
    return {
        **inputs,
        "pixel_values": pixels(batch, 1, 4, 3, 28, 28),
        "aspect_ratio_ids": torch.ones(batch, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.tensor([[[1, 0, 0, 0]]]).expand(batch, -1, -1),
        "cross_attention_mask": seen,
    }
