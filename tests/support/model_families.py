# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny random models of the families that people run, for the table of families and operations.

Owns the configs: each keeps the layer types, head shapes and masks that make its family different. tiny_models.py has
the few families that every test of the cache runs on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from image_families import IMAGE_FAMILIES, image_inputs
from tiny_models import random_weights


_TOKENS = {"vocab_size": 97, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
_SIZES = {
    **_TOKENS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 24}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LINEAR = {
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 32}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 64,
}
_GEMMA4 = {
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 24,
    "global_head_dim": 32,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 97,
    "num_kv_shared_layers": 0,
}


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Args:
        config: name of the config class in transformers.
        model: name of the model class.
        changes: config entries over the common ones.
        without: common entries that the config does not have.
        image: whether prompts have an image.
    """

    config: str
    model: str
    changes: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    image: bool = False


def _causal(name: str, changes: dict[str, Any] | None = None, config: str | None = None, without=()) -> Family:
    return Family(config or f"{name}Config", f"{name}ForCausalLM", changes or {}, without)


FAMILIES: dict[str, Family] = {
    "llama": _causal("Llama"),
    "llama4": _causal(
        "Llama4",
        {"num_local_experts": 4, "intermediate_size_mlp": 96, "attention_chunk_size": 24, "no_rope_layers": [1, 0]},
        "Llama4TextConfig",
    ),
    "mistral": _causal("Mistral", {"sliding_window": None}),
    "ministral3": _causal(
        "Ministral3",
        {"rope_parameters": {**_ROPE, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 1024}},
    ),
    "mixtral": _causal("Mixtral", {"num_local_experts": 4}),
    "qwen2": _causal("Qwen2"),
    "qwen3": _causal("Qwen3"),
    "qwen3_moe": _causal("Qwen3Moe", _EXPERTS),
    "qwen3_next": _causal("Qwen3Next", {**_LINEAR, **_EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen3_5": _causal("Qwen3_5", _LINEAR, "Qwen3_5TextConfig"),
    "qwen3_5_moe": _causal(
        "Qwen3_5Moe", {**_LINEAR, **_EXPERTS, "shared_expert_intermediate_size": 32}, "Qwen3_5MoeTextConfig"
    ),
    "gemma2": _causal("Gemma2", {**_SLIDING, "attn_logit_softcapping": 5.0}),
    "gemma3": _causal("Gemma3", _SLIDING, "Gemma3TextConfig"),
    "gemma3n": _causal(
        "Gemma3n",
        {
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": 24,
            "num_kv_shared_layers": 2,
            "intermediate_size": 96,
            "activation_sparsity_pattern": [0.0] * 4,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 97,
            "laurel_rank": 8,
        },
        "Gemma3nTextConfig",
    ),
    "gemma4_31b": _causal(
        "Gemma4", {**_GEMMA4, "attention_k_eq_v": True, "num_global_key_value_heads": 1}, "Gemma4TextConfig"
    ),
    "gemma4_e4b": _causal(
        "Gemma4",
        {**_GEMMA4, "num_hidden_layers": 4, "layer_types": _GEMMA4["layer_types"] * 2, "num_kv_shared_layers": 2},
        "Gemma4TextConfig",
    ),
    "phi3": _causal("Phi3", {"sliding_window": None}),
    "phi3_longrope": _causal(
        "Phi3", {"sliding_window": None, "rope_parameters": _LONGROPE, "original_max_position_embeddings": 64}
    ),
    "gpt_oss": _causal("GptOss", {**_SLIDING, "num_local_experts": 4, "rope_parameters": _ROPE}),
    "glm4": _causal("Glm4"),
    "glm4_moe": _causal(
        "Glm4Moe",
        {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1},
    ),
    "smollm3": _causal("SmolLM3", {"no_rope_layers": [1, 0]}),
    "olmo3": _causal("Olmo3", _SLIDING),
    "olmo_hybrid": _causal("OlmoHybrid", {**_LINEAR, "rope_parameters": _ROPE}),
    "granite": _causal("Granite"),
    "granitemoehybrid": _causal(
        "GraniteMoeHybrid",
        {
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_local_experts": 4,
            "shared_intermediate_size": 32,
            **_MAMBA2,
        },
    ),
    "falcon_h1": _causal("FalconH1", {**_MAMBA2, "mamba_d_ssm": 128}),
    "nemotron_h": _causal(
        "NemotronH",
        {
            "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "ssm_state_size": 16,
            "n_groups": 2,
            "chunk_size": 32,
            "n_routed_experts": 4,
            "moe_intermediate_size": 32,
            "moe_shared_expert_intermediate_size": 32,
        },
        without=("num_hidden_layers",),
    ),
    "jamba": _causal(
        "Jamba",
        {
            "num_hidden_layers": 3,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "num_experts": 4,
            "mamba_d_state": 8,
        },
    ),
    "bamba": _causal("Bamba", {"num_hidden_layers": 3, "attn_layer_indices": [1], **_MAMBA2}),
    "zamba2": _causal(
        "Zamba2",
        {
            "num_hidden_layers": 3,
            "layers_block_type": ["linear_attention", "hybrid", "linear_attention"],
            "n_mamba_heads": 8,
            "mamba_ngroups": 2,
            "mamba_d_state": 16,
            "chunk_size": 32,
            "num_key_value_heads": 4,
        },
        without=("head_dim",),
    ),
    "lfm2": _causal("Lfm2", {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]}),
    "cohere2": _causal("Cohere2", _SLIDING),
    "minimax_m2": _causal("MiniMaxM2", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "exaone4": _causal("Exaone4", {**_SLIDING, "sliding_window_pattern": "LG"}),
    "seed_oss": _causal("SeedOss", {"attention_dropout": 0.0, "residual_dropout": 0.0}),
    "mimo_v2": _causal(
        "MiMoV2Flash",
        {
            **_SLIDING,
            "head_dim": 24,
            "v_head_dim": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
        },
    ),
    **{name: Family(config, model, changes, image=True) for name, (config, model, changes) in IMAGE_FAMILIES.items()},
}
"""Family -> how its tiny model is made."""


def is_available(name: str) -> bool:
    """Whether the installed transformers has the family."""
    family = FAMILIES[name]
    return hasattr(transformers, family.config) and hasattr(transformers, family.model)


def family_config(name: str, **overrides) -> transformers.PretrainedConfig:
    """Return the config of a tiny model of the family."""
    family = FAMILIES[name]
    sizes = {} if family.image else {key: value for key, value in _SIZES.items() if key not in family.without}
    return getattr(transformers, family.config)(**{**sizes, **family.changes, **overrides})


def family_model(name: str, seed: int = 0, **overrides):
    """Return a tiny random model of the family, float32, in eval mode; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        # For what `random_weights` leaves as transformers draws it: biases of time steps and the like.
        torch.manual_seed(seed)
        model = getattr(transformers, FAMILIES[name].model)(family_config(name, **overrides))
    return random_weights(model, seed)


def family_inputs(name: str, batch_size: int = 1, length: int = 40, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a prompt of `batch_size` rows of `length` tokens as keyword arguments of generate."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 90, (batch_size, length), generator=generator)
    if FAMILIES[name].image:
        return image_inputs(name, ids, generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
