# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The quantizer shim behind `from_pretrained(quantization_config=VecInferConfig(...))`: it leaves the weights alone.

Owns what transformers expects of a quantizer. All it does is switch the cache on once the model is loaded.
"""

from __future__ import annotations

import copy

from transformers import PreTrainedModel
from transformers.quantizers.base import HfQuantizer

from ..config import VecInferConfig
from .enable import enable


class VecInferQuantizer(HfQuantizer):
    """Quantizes nothing; enables the VecInfer cache of the loaded model.

    Args:
        quantization_config: the user's VecInferConfig.
        kwargs: passed on to transformers' HfQuantizer.
    """

    requires_calibration = False

    def __init__(self, quantization_config: VecInferConfig, **kwargs):
        # A copy, as it gets the name of this model's codebook below.
        super().__init__(copy.copy(quantization_config), **kwargs)
        # The weights are as they are stored, as for a checkpoint that was quantized before.
        self.pre_quantized = True

    def validate_environment(self, *args, **kwargs) -> None:
        """Nothing is needed beyond this package."""

    def update_dtype(self, dtype):
        """Return `dtype` unchanged."""
        return dtype

    def update_device_map(self, device_map):
        """Return `device_map` unchanged."""
        return device_map

    def update_attn_implementation(self, attn_implementation):
        """Return `attn_implementation` unchanged; `enable` sets it after loading."""
        return attn_implementation

    def param_needs_quantization(self, *args, **kwargs) -> bool:
        """Return False: no parameter is quantized."""
        return False

    def get_state_dict_and_metadata(self, *args, **kwargs):
        """Return no replacement state dict."""
        return None, {}

    def is_serializable(self, *args, **kwargs) -> bool:
        """Return True: weights are saved as they are."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Return True: the weights are ordinary parameters."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """Return True."""
        return True

    @property
    def is_compileable(self) -> bool:
        """Return True, or generate would not compile the decode step of a static cache."""
        return True

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs) -> PreTrainedModel:
        if model.can_generate():
            # It writes what was found into the config that is saved with the model.
            enable(model, self.quantization_config)
        return model

    def postprocess_model(self, model: PreTrainedModel, **kwargs) -> PreTrainedModel:
        """Finish loading, then take back the mark "quantized": `.half()`, `.to()` and training must keep working."""
        model = super().postprocess_model(model, **kwargs)
        model.is_quantized = False
        for module in model.modules():
            if isinstance(module, PreTrainedModel) and hasattr(module.config, "_is_quantized"):
                del module.config._is_quantized
        return model
