# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Random codebooks, states and buffers for the tests; no checks of its own."""

from __future__ import annotations

import os

import oracle
import torch


FORMATS = {
    "d4b8": oracle.Format(4, 8, 1),
    "d4b8x2": oracle.Format(4, 8, 2),
    "d8b8": oracle.Format(8, 8, 1),
    "d2b8": oracle.Format(2, 8, 1),
    "d8b10": oracle.Format(8, 10, 1),
    "d8b12": oracle.Format(8, 12, 1),
}
DEVICE = os.environ.get("VECINFER_KERNEL_BACKEND") or ("cuda" if torch.cuda.is_available() else "cpu")
"""The backend under test, which is also the device of all tensors."""
ON_CPU = DEVICE == "cpu"


def choose_path(monkeypatch, path: str) -> None:
    """Force a slower path, "portable" or "general", or none (""). On a CPU "general" is AVX2's."""
    if path and ON_CPU:
        monkeypatch.setenv("VECINFER_CPU_PATH", {"portable": "portable", "general": "avx2"}[path])
    elif path:
        monkeypatch.setenv("VECINFER_DECODE_PATH", path)


def random_centroids(heads: int, fmt: oracle.Format) -> torch.Tensor:
    """Return int8 centroids like those of Gaussian data; the second level is finer than the first."""
    shape = (heads, fmt.num_codes, 2**fmt.bits, fmt.dim)
    spread = torch.tensor([38.0, 12.0])[: fmt.num_codes].view(1, -1, 1, 1)
    return (torch.randn(shape) * spread).round().clamp(-127, 127).to(torch.int8).to(DEVICE)


def random_codebook(
    heads: int,
    head_dim: int,
    key: str = "d4b8",
    value: str = "d4b8",
    transform: str = "diagonal",
    value_transform: str | None = None,
    means: bool = False,
) -> oracle.Codebook:
    """Return a codebook for states of variance about 1; transforms are "diagonal", "full" or (values) None."""

    def pair(kind):
        if kind is None:
            return None, None
        if kind == "diagonal":
            weight = torch.rand(heads, head_dim) + 0.5
            return weight.to(DEVICE), (1 / weight).to(DEVICE)
        weight = torch.linalg.qr(torch.randn(heads, head_dim, head_dim, dtype=torch.float64))[0]
        weight = weight * (torch.rand(heads, 1, head_dim, dtype=torch.float64) + 0.5)
        return weight.float().to(DEVICE).contiguous(), torch.linalg.inv(weight).float().to(DEVICE).contiguous()

    key_weight, key_inverse = pair(transform)
    value_weight, value_inverse = pair(value_transform)
    query = key_inverse if transform == "diagonal" else key_inverse.transpose(1, 2).contiguous()
    mean = [torch.randn(heads, head_dim, device=DEVICE) * 0.3 if means else None for _ in range(2)]
    scales = [(torch.rand(heads, device=DEVICE) * 0.2 + 0.9) / 38 for _ in range(2)]
    return oracle.Codebook(
        mean[0],
        key_weight,
        query,
        random_centroids(heads, FORMATS[key]),
        scales[0],
        mean[1],
        value_weight,
        value_inverse,
        random_centroids(heads, FORMATS[value]),
        scales[1],
    )


def formats(codebook: oracle.Codebook) -> tuple[oracle.Format, oracle.Format]:
    """Return the formats of keys and values."""
    return oracle.format_of(codebook.key_centroids), oracle.format_of(codebook.value_centroids)


def random_codes(batch: int, heads: int, tiles: int, codebook: oracle.Codebook, head_dim: int) -> torch.Tensor:
    """Return a code buffer full of random bytes: whatever is not written is seen."""
    size = oracle.tile_bytes(*formats(codebook), head_dim)
    return torch.randint(0, 256, (batch, heads, tiles, size), dtype=torch.uint8, device=DEVICE)


def random_states(batch: int, heads: int, tokens: int, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Return states `[B, Hkv, T, D]` laid out as a model has them (`[B, T, Hkv, D]` in memory), at an odd offset."""
    numel = batch * tokens * heads * head_dim
    flat = torch.randn(numel + 3, device=DEVICE).to(dtype)[3:]
    return flat.view(batch, tokens, heads, head_dim).transpose(1, 2)


def write_args(codebook: oracle.Codebook) -> tuple:
    """Return the codebook's tensors in the order of quantize and append."""
    c = codebook
    return (
        c.key_mean,
        c.key_transform,
        c.key_centroids,
        c.key_centroid_scale,
        c.value_mean,
        c.value_transform,
        c.value_centroids,
        c.value_centroid_scale,
    )


def read_args(codebook: oracle.Codebook) -> tuple:
    """Return the codebook's tensors in the order of decode_attention and dequantize."""
    c = codebook
    return (
        c.key_mean,
        c.query_transform,
        c.key_centroids,
        c.key_centroid_scale,
        c.value_mean,
        c.output_transform,
        c.value_centroids,
        c.value_centroid_scale,
    )


def int32(*values: int) -> torch.Tensor:
    """Return int32 numbers on the device."""
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def assert_nearest(
    states: torch.Tensor,
    codes: torch.Tensor,
    weight: torch.Tensor | None,
    mean: torch.Tensor | None,
    centroids: torch.Tensor,
    scale: torch.Tensor,
) -> None:
    """Check that the distance reached is the least one, up to the rounding of the input.

    The kernel rounds x to x' = x + e and finds a nearest centroid of x', so it reaches at most the least distance plus
    2 |e|. Rounding is to 1 / (16 / d) of the scale, or to fp16's 11 bits (twice, with two codes) for far inputs; the
    fp32 transform adds D * 2^-23 of the vector's size, stretched by a full matrix (hence the norm of its rows). The
    factors of a full matrix's product have 16 bits: at most 2^-16 of the vector's size more.
    """
    x = oracle.forward(states, weight, mean)
    dim = centroids.shape[3]
    step = scale.double()[:, None, None] * dim / 16
    size = x.unflatten(-1, (-1, dim)).norm(dim=-1)
    stretch = 1.0 if weight is None else weight.double().flatten(0, -2).norm(dim=-1).amax()
    whole = (states.double().norm(dim=-1) + (0 if mean is None else mean.double().norm(dim=-1)[:, None])) * stretch
    rounding = x.shape[-1] * 2.0**-23 + (2.0**-16 if weight is not None and weight.dim() == 3 else 0)
    error = 0.5 * step * dim**0.5 + size * 2.0**-10 * (size > 1024 * step) + whole[..., None] * rounding
    for reached, best in oracle.greedy_distances(x, codes, centroids, scale):
        assert (reached <= best + 2 * error).all(), (reached - best - 2 * error).max()
