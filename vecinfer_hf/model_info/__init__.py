# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What is read from a transformers config or model: layers, heads, identity, and which models are refused and why."""

from .heads import HeadShape, head_shape, head_shapes, query_heads
from .identity import ModelIdentity, check_identity, model_identity
from .layers import LayerUse, full_attention_layers, layer_uses, sharing_layers, text_config
from .refusals import check_supported, unsupported_model_reason, unsupported_reason
from .support import Support, supported
from .wrappers import unwrapped


__all__ = [
    "HeadShape",
    "LayerUse",
    "ModelIdentity",
    "Support",
    "check_identity",
    "check_supported",
    "full_attention_layers",
    "head_shape",
    "head_shapes",
    "layer_uses",
    "model_identity",
    "query_heads",
    "sharing_layers",
    "supported",
    "text_config",
    "unsupported_model_reason",
    "unsupported_reason",
    "unwrapped",
]
