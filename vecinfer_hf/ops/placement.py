# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Where a new token goes: sinks, ring or codes. For any number of tokens, rows of different length included.

Owns the arithmetic of the three regions; the operators' append is this with equal counts, prompts come here directly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .to_device import to_device, to_device_int32
from .types import Buffers, LayerCodebook


def window_span(length: int, count: int, quantized: int, num_sinks: int, residual_length: int) -> tuple[int, int]:
    """Return the quantized tokens and the window's end (both as `n`) of a row of `length` after `count` joined."""
    end = max(length + count - num_sinks, 0)
    return max(quantized, end - residual_length), end


def store_tokens(
    key_states: torch.Tensor,
    value_states: torch.Tensor,
    first: list[int],
    counts: list[int],
    lengths: list[int],
    quantized: list[int],
    buffers: Buffers,
    codebook: LayerCodebook,
    quantize: Callable[..., None],
) -> tuple[list[int], list[int]]:
    """Store tokens `first[b] .. first[b] + counts[b]` of each row behind what the row already has.

    Tokens that leave the window, old ones in the ring as well as new ones that pass it by, are quantized, once.
    Everything that decides is on the host: nothing is read from the device.

    Args:
        key_states: `[B, Hkv, T, Dk]`.
        value_states: `[B, Hkv, T, Dv]`.
        first: first token of each row.
        counts: tokens of each row.
        lengths: each row's tokens so far (`buffers.lengths` on the host).
        quantized: each row's quantized tokens so far (`buffers.quantized_lengths` on the host).
        buffers: changed in place, lengths included; codes and ring must have room.
        codebook: the layer's codebook.
        quantize: the operator of the backend in use.

    Returns:
        The new lengths and quantized lengths, on the host.
    """
    device = key_states.device
    num_sinks, slots = buffers.sink_keys.shape[2], buffers.ring_keys.shape[2]
    spans = [
        window_span(length, count, coded, num_sinks, slots)
        for length, count, coded in zip(lengths, counts, quantized, strict=True)
    ]
    before = [max(length - num_sinks, 0) for length in lengths]
    to_sinks = [min(max(num_sinks - length, 0), count) for length, count in zip(lengths, counts, strict=True)]
    # Old tokens leave the ring before new ones take their places.
    leaving = [min(span[0], old) - coded for span, old, coded in zip(spans, before, quantized, strict=True)]
    if max(leaving) > 0:
        start = to_device_int32(quantized, device)
        slot = (start.unsqueeze(1) + torch.arange(max(leaving), device=device)) % slots
        old_keys, old_values = (
            ring.gather(2, slot[:, None, :, None].expand(-1, ring.shape[1], -1, ring.shape[3]))
            for ring in (buffers.ring_keys, buffers.ring_values)
        )
        quantize(
            old_keys,
            old_values,
            buffers,
            buffers.quantized_lengths,
            to_device_int32([max(count, 0) for count in leaving], device),
            to_device_int32([0] * len(leaving), device),
            codebook,
        )
    passing = [max(span[0] - old, 0) for span, old in zip(spans, before, strict=True)]
    if max(passing) > 0:
        begin = [offset + sinks for offset, sinks in zip(first, to_sinks, strict=True)]
        quantize(
            key_states,
            value_states,
            buffers,
            to_device_int32(before, device),
            to_device_int32(passing, device),
            to_device_int32(begin, device),
            codebook,
        )
    if max(leaving) > 0 or max(passing) > 0:
        # Before their places in the ring are used again: what is interrupted from here on finds them as codes.
        old_codes = [min(span[0], old) for span, old in zip(spans, before, strict=True)]
        buffers.quantized_lengths.copy_(to_device_int32(old_codes, device))
    rows_by_place: dict[tuple[int, ...], list[int]] = {}
    for row, (coded, end) in enumerate(spans):
        place = (lengths[row], first[row], to_sinks[row], max(coded, before[row]), before[row], end)
        rows_by_place.setdefault(place, []).append(row)
    for (length, offset, sinks, kept, old, end), rows in rows_by_place.items():
        batch = slice(None) if len(rows) == len(lengths) else to_device(rows, device)
        places = torch.arange(kept, end, device=device) % slots if end > kept else None
        begin = offset + sinks + kept - old
        for states, sink, ring in (
            (key_states, buffers.sink_keys, buffers.ring_keys),
            (value_states, buffers.sink_values, buffers.ring_values),
        ):
            if sinks:
                sink[batch, :, length : length + sinks] = states[batch, :, offset : offset + sinks]
            if places is None:
                continue
            kept_states = states[batch, :, begin : begin + end - kept]
            if isinstance(batch, slice):
                ring.index_copy_(2, places, kept_states)
            else:
                ring[batch[:, None], :, places] = kept_states.transpose(1, 2)
    new_lengths = [length + count for length, count in zip(lengths, counts, strict=True)]
    new_quantized = [coded for coded, _ in spans]
    buffers.lengths.copy_(to_device_int32(new_lengths, device))
    buffers.quantized_lengths.copy_(to_device_int32(new_quantized, device))
    return new_lengths, new_quantized
