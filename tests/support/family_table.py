# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What is expected of each family and operation, and the table of it in README.md.

tests/test_families.py holds every cell to it.
"""

from __future__ import annotations

from model_families import FAMILIES, family_config

from vecinfer_hf.cache.make_layers import DynamicCache, LinearAttentionCacheLayerMixin
from vecinfer_hf.model_info import layer_uses


OPERATIONS = (
    "plain",
    "left_padded",
    "chunks",
    "second_turn",
    "beams",
    "prompt_lookup",
    "assistant",
    "crop",
    "deepcopy",
    "reset",
    "static",
    "image",
    "saved",
    "calibrated",
)
"""The columns."""

_STATEFUL = "assisted generation is not supported with stateful models"

TITLES = {
    "llama": "Llama 2 and 3",
    "llama4": "Llama 4",
    "mistral": "Mistral",
    "ministral3": "Ministral 3",
    "mixtral": "Mixtral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3-MoE",
    "qwen3_next": "Qwen3-Next",
    "qwen3_5": "Qwen3.5",
    "qwen3_5_moe": "Qwen3.5-MoE",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3",
    "gemma3n": "Gemma 3n",
    "gemma4_31b": "Gemma 4 (26B, 31B)",
    "gemma4_e4b": "Gemma 4 (E2B, E4B)",
    "phi3": "Phi-3",
    "phi3_longrope": "Phi-3 and Phi-4-mini with longrope",
    "gpt_oss": "GPT-OSS",
    "glm4": "GLM-4",
    "glm4_moe": "GLM-4-MoE",
    "smollm3": "SmolLM3",
    "olmo3": "OLMo 3",
    "olmo_hybrid": "OLMo-hybrid",
    "granite": "Granite",
    "granitemoehybrid": "Granite hybrid",
    "falcon_h1": "Falcon-H1",
    "nemotron_h": "Nemotron-H",
    "jamba": "Jamba",
    "bamba": "Bamba",
    "zamba2": "Zamba2",
    "lfm2": "LFM2",
    "cohere2": "Cohere 2",
    "minimax_m2": "MiniMax-M2",
    "exaone4": "EXAONE 4",
    "seed_oss": "Seed-OSS",
    "mimo_v2": "MiMo-V2-Flash",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "gemma3_image": "Gemma 3 with images",
    "llava": "LLaVA",
    "mllama": "Llama 3.2 Vision",
}


def applies(family: str, operation: str) -> bool:
    """Whether an operation has a meaning for a family."""
    return operation != "image" or FAMILIES[family].image


def refusal(family: str, operation: str) -> str | None:
    """Return words of the error with which an operation is refused for a family, or None if it works."""
    kinds = layer_kinds(family)
    if operation == "crop" and kinds & {"sliding", "recurrent", "convolution"}:
        return "cannot be cropped"
    if operation in ("prompt_lookup", "assistant") and "recurrent" in kinds:
        return _STATEFUL
    if operation == "assistant" and family in ("qwen2_5_vl", "qwen3_vl"):
        return "mat1 and mat2 shapes"  # transformers gives the assistant this model's three rows of positions
    if operation == "calibrated" and family == "zamba2":
        return "does not know its layer"
    return None


def layer_kinds(family: str) -> set[str]:
    """Return what a family's layers keep beside codes: "sliding", "recurrent", "convolution", "shared", "cross"."""
    config = family_config(family)
    kinds = set()
    layers = DynamicCache(config=config).layers
    for use in layer_uses(config):
        layer = layers[use.index] if use.index < len(layers) else None
        if isinstance(layer, LinearAttentionCacheLayerMixin) and use.keeps != "nothing":
            kinds.add("convolution" if "conv" in config.layer_types else "recurrent")
        elif use.keeps == "shared":
            kinds.add("shared")
        elif getattr(layer, "is_sliding", False):
            kinds.add("sliding")
        elif "cross" in use.reason:
            kinds.add("cross")
    return kinds


_BESIDE = {
    "sliding": "sliding or chunked windows",
    "recurrent": "recurrent states",
    "convolution": "convolution states",
    "shared": "layers that read another layer's codes",
    "cross": "cross-attention",
}
_NAMES = {
    "crop": "`crop`",
    "prompt_lookup": "prompt lookup",
    "assistant": "an assistant model",
    "calibrated": '`calibrate` (`codebook="online"` works)',
}


def groups() -> list[list[str]]:
    """Return the families, those with the same layers and the same cells together."""
    found: dict[tuple, list[str]] = {}
    for family in FAMILIES:
        cells = tuple(refusal(family, name) is None for name in OPERATIONS)
        found.setdefault((FAMILIES[family].image, tuple(sorted(layer_kinds(family))), cells), []).append(family)
    return list(found.values())


def readme_table() -> str:
    """Return the table of README.md: models, what keeps its default form, what is refused."""
    lines = ["| models | what keeps the default form | what is refused |", "| --- | --- | --- |"]
    for families in groups():
        kinds = [words for kind, words in _BESIDE.items() if kind in layer_kinds(families[0])]
        refused = [_NAMES[name] for name in OPERATIONS if refusal(families[0], name) is not None]
        if "sliding" in layer_kinds(families[0]):
            refused = [words + " beyond a window" if words == "`crop`" else words for words in refused]
        if FAMILIES[families[0]].image and not kinds:
            kinds = ["the vision tower"]
        lines.append(f"| {_titles(families)} | {', '.join(kinds) or 'nothing'} | {', '.join(refused)} |")
    return "\n".join(lines)


def method_table() -> str:
    """Return the table of METHOD.md: models and operations."""
    heads = [name.replace("_", " ") for name in OPERATIONS]
    lines = [f"| models | {' | '.join(heads)} |", f"| --- |{' :-: |' * len(heads)}"]
    for families in groups():
        cells = [_mark(families[0], name) for name in OPERATIONS]
        lines.append(f"| {_titles(families)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mark(family: str, operation: str) -> str:
    if not applies(family, operation):
        return ""
    return "+" if refusal(family, operation) is None else "-"


def _titles(families: list[str]) -> str:
    return ", ".join(TITLES[family] for family in families)


if __name__ == "__main__":
    print(readme_table(), method_table(), sep="\n\n")
