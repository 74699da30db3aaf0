# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""OnlineCodebook: for a model that nobody has calibrated, fitted to the first prompt's own keys and values.

A cache layer says when it is fitted: before its first token is coded. quantization/online_fit.py owns how.
"""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from transformers import PreTrainedConfig

from ..calibration_config import CalibrationConfig
from ..codebook.codebook import Codebook
from ..distributed.heads import HeadShard, gather_heads
from ..errors import CodebookError, UnsupportedModelError
from ..model_info import HeadShape, model_identity
from ..ops.types import LayerCodebook
from ..quantization.formats import CodeFormat
from ..quantization.online_fit import fit_online


ONLINE = "online"


class OnlineCodebook(Codebook):
    """A codebook that belongs to one cache. Each layer is fitted anew whenever it holds no codes and is about to.

    Args:
        model_config: the model's config.
        config: `key_bits`, `value_bits`, `layer_bits`, `residual_length`, `sink_length` and `seed` are used.
    """

    def __init__(self, model_config: PreTrainedConfig, config: CalibrationConfig):
        identity = model_identity(model_config)
        formats = config.formats(len(identity.layers)) if identity.layers else []
        # Nothing is coded before the fit, so the operators may be handed anything of the right shape.
        layers = {
            index: _placeholder(shape, *pair)
            for (index, shape), pair in zip(identity.layers.items(), formats, strict=True)
        }
        super().__init__(config, identity, layers)

    def __deepcopy__(self, memo):
        # A copied cache may be fitted anew after a crop or a reset, which must not change the original's codebook.
        other = copy.copy(self)
        other.layers, other._on_device = dict(self.layers), dict(self._on_device)
        memo[id(self)] = other
        return other

    def _make_shard(self, shard: HeadShard) -> OnlineCodebook:
        if dist.get_world_size() != shard.size:
            raise UnsupportedModelError(
                f'codebook="online" needs tensor parallelism over all {dist.get_world_size()} processes, not over '
                f"{shard.size} of them. Give a calibrated codebook."
            )
        # All heads are fitted together on every process, so that each finds what one process would.
        return super()._make_shard(shard)

    def fit(
        self,
        index: int,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        query_states: torch.Tensor | None,
    ) -> None:
        """Fit layer `index` to keys `[B, Hkv, T, Dk]` and values `[B, Hkv, T, Dv]`, and queries `[B, Hq, T', Dk]`."""
        device, shard = key_states.device, self.head_shard
        states = [
            None if own is None else gather_heads(own, shard, device, dim=1)
            for own in (key_states, value_states, query_states)
        ]
        fitted = fit_online(
            *states[:2],
            *self.formats(index),
            states[2],
            sink_length=0,
            seed=self.config.seed,
        )
        fitted = LayerCodebook(
            key_mean=fitted.key_mean,
            key_transform=1 / fitted.smooth_scale,
            query_transform=fitted.smooth_scale,
            key_centroids=fitted.key_centroids,
            key_centroid_scale=fitted.key_centroid_scale,
            value_mean=None,
            value_transform=None,
            output_transform=None,
            value_centroids=fitted.value_centroids,
            value_centroid_scale=fitted.value_centroid_scale,
        )
        fitted = fitted.heads(shard.of(states[0].shape[1]))
        self.layers[index] = fitted
        self._on_device[index, device] = fitted.to(device)

    def save_pretrained(self, save_directory) -> None:
        """Raise CodebookError: what fits one prompt is not worth keeping."""
        raise CodebookError(
            "An online codebook belongs to one prompt and is not saved; `vecinfer calibrate` makes one that is."
        )


def _placeholder(shape: HeadShape, key_format: CodeFormat, value_format: CodeFormat) -> LayerCodebook:
    heads = shape.num_key_value_heads

    def centroids(fmt: CodeFormat) -> torch.Tensor:
        return torch.zeros(heads, fmt.num_codes, fmt.codebook_size, fmt.subvector_dim, dtype=torch.int8)

    ones = torch.ones(heads, shape.key_head_dim)
    return LayerCodebook(
        None,
        ones,
        ones,
        centroids(key_format),
        torch.ones(heads),
        None,
        None,
        None,
        centroids(value_format),
        torch.ones(heads),
    )
