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
from .sinks import Piece


ONLINE = "online"


class OnlineCodebook(Codebook):
    """A codebook that belongs to one cache. Each layer is fitted anew whenever it holds no codes and is about to.

    Args:
        model_config: the model's config.
        config: `key_bits`, `value_bits`, `layer_bits`, `residual_length`, `sink_length` and `seed` are used.
        fixed: whether a fit changes the tensors in place: a compiled decode step knows them by their addresses.
    """

    def __init__(self, model_config: PreTrainedConfig, config: CalibrationConfig, fixed: bool = False):
        self.fixed = fixed
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
        if self.fixed:
            for places in (other.layers, other._on_device):
                for key, layer in places.items():
                    places[key] = LayerCodebook(*(tensor.clone() for tensor in layer))
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
        own_tokens: int,
        residual_length: int,
    ) -> None:
        """Fit layer `index`.

        Args:
            index: the layer.
            key_states: `[Hkv, T, Dk]`, tokens of all rows without sinks.
            value_states: `[Hkv, T, Dv]`.
            query_states: `[Hq, T', Dk]` of the last T' tokens, or None if they are not known.
            own_tokens: tokens at the end that belong to the row of the queries.
            residual_length: recent tokens that a query reads in full precision.
        """
        device, shard = key_states.device, self.head_shard
        states = [
            None if own is None else gather_heads(own, shard, device, dim=0)
            for own in (key_states, value_states, query_states)
        ]
        key, value = fit_online(
            *states[:2],
            *self.formats(index),
            states[2],
            own_tokens=own_tokens,
            residual_length=residual_length,
            seed=self.config.seed,
        )
        fitted = LayerCodebook(
            key_mean=key.mean,
            key_transform=key.transform,
            query_transform=key.inverse.transpose(1, 2).contiguous(),
            key_centroids=key.centroids,
            key_centroid_scale=key.scale,
            value_mean=value.mean,
            value_transform=value.transform,
            output_transform=value.inverse,
            value_centroids=value.centroids,
            value_centroid_scale=value.scale,
        )
        fitted = fitted.heads(shard.of(len(states[0])))
        if self.fixed:
            kept = self.layer(index, device)
            for old, new in zip(kept, fitted, strict=True):
                old.copy_(new)
            fitted = kept
        self.layers[index] = self._on_device[index, device] = fitted

    def save_pretrained(self, save_directory) -> None:
        """Raise CodebookError: what fits one prompt is not worth keeping."""
        raise CodebookError(
            "An online codebook belongs to one prompt and is not saved; `vecinfer calibrate` makes one that is."
        )


def row_states(
    pieces: list[Piece], side: int, ring: torch.Tensor, stored: list[int], sinks: int, order: list[int]
) -> torch.Tensor:
    """Return the keys or values of all rows without their sinks, `[Hkv, T, D]`, one row behind the other.

    Args:
        pieces: the new tokens, sinks first.
        side: 0 for keys, 1 for values.
        ring: `[B, Hkv, slots, D]`, what came before them; nothing has left it yet, so a row's tokens come first.
        stored: tokens of each row that came before.
        sinks: sinks of each row.
        order: the rows.
    """
    states = []
    for row in order:
        states.append(ring[row, :, : max(stored[row] - sinks, 0)])
        left = max(sinks - stored[row], 0)
        for piece in pieces:
            own = piece[side][row, :, piece.first[row] : piece.first[row] + piece.counts[row]]
            states.append(own[:, left:])
            left = max(left - own.shape[1], 0)
    return torch.cat(states, dim=1)


def _placeholder(shape: HeadShape, key_format: CodeFormat, value_format: CodeFormat) -> LayerCodebook:
    heads, *sizes = shape
    sides = []
    for size, code_format in zip(sizes, (key_format, value_format), strict=True):
        matrix = torch.eye(size).repeat(heads, 1, 1)
        centroids = torch.zeros(
            heads, code_format.num_codes, code_format.codebook_size, code_format.subvector_dim, dtype=torch.int8
        )
        sides += [torch.zeros(heads, size), matrix, matrix.clone(), centroids, torch.ones(heads)]
    return LayerCodebook(*sides)
