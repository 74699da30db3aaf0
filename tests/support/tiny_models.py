# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny random models of the families the tests cover, built from a config without any download.

Owns the sizes and which family stands for which feature; the weights are those of the seed given.
"""

import torch
import transformers


# What every family shares; 2 layers, 4 query heads over 2 key/value heads of 16 channels, 97 tokens.
_SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
_FULL_AND_SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 24}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

# family -> (config class, model class, what differs from `_SIZES`)
_FAMILIES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "llama_mha": ("LlamaConfig", "LlamaForCausalLM", {"num_key_value_heads": 4}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {"sliding_window": None}),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", {}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**_FULL_AND_SLIDING, "attn_logit_softcapping": 5.0}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", _FULL_AND_SLIDING),
    "gpt_oss": (
        "GptOssConfig",
        "GptOssForCausalLM",
        {**_FULL_AND_SLIDING, "num_local_experts": 4, "rope_parameters": _ROPE},
    ),
}
_MIXTURES = {
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {"num_experts": 4, "moe_intermediate_size": 48}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {"num_local_experts": 4, "sliding_window": None}),
}
MIXTURES = tuple(_MIXTURES)
"""Families with experts, 2 of 4 for each token, apart from those that every test of families goes through."""
FAMILIES = tuple(_FAMILIES)
"""Every family `tiny_model` can build."""


def tiny_config(family: str, **overrides) -> transformers.PretrainedConfig:
    """Return the config of a tiny model of `family`, with `overrides` on top."""
    config_class, _, changes = (_FAMILIES | _MIXTURES)[family]
    if family in _MIXTURES:
        changes = {"num_experts_per_tok": 2, **changes}
    return getattr(transformers, config_class)(**{**_SIZES, **changes, **overrides})


def tiny_model(family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, **overrides):
    """Return a tiny random model of `family` in eval mode; the same seed gives the same weights.

    The weights are drawn wider than transformers does, so that attention is far from uniform and errors show.
    """
    model = getattr(transformers, (_FAMILIES | _MIXTURES)[family][1])(tiny_config(family, **overrides))
    return random_weights(model, seed, dtype)


def random_weights(model: transformers.PreTrainedModel, seed: int = 0, dtype: torch.dtype = torch.float32):
    """Return `model` in eval mode with weights drawn from `seed`, and a generation config that never ends a text."""
    generator = torch.Generator().manual_seed(seed)
    model = model.to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                values = torch.randn(parameter.shape, generator=generator) * 1.5 / parameter.shape[-1] ** 0.5
                parameter.copy_(values)
            elif name.endswith("sinks"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model


def tiny_inputs(batch_size: int = 1, length: int = 40, seed: int = 0, vocab_size: int = 97) -> torch.Tensor:
    """Return random token ids of shape `(batch_size, length)`, none of them the padding token."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, vocab_size, (batch_size, length), generator=generator)
