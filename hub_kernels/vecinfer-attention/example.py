# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["kernels", "torch"]
# ///
"""Quantize a prompt's keys and values to 2 bits and attend to them, without the rest of vecinfer_hf.

LOCAL_KERNELS="vecinfer/vecinfer-attention=hub_kernels/vecinfer-attention" python example.py
"""

import torch
from kernels import get_kernel


kernel = get_kernel("vecinfer/vecinfer-attention", version=2, trust_remote_code=["vecinfer/vecinfer-attention"])

batch, query_heads, heads, tokens, head_dim = 1, 32, 8, 4096, 128
make = {"device": "cuda", "dtype": torch.bfloat16}
keys, values = (torch.randn(batch, heads, tokens, head_dim, **make) for _ in range(2))
query = torch.randn(batch, query_heads, 1, head_dim, **make)

# A codebook for Gaussian data; real ones are calibrated (vecinfer_hf.calibrate).
centroids = (torch.randn(heads, 1, 256, 4, device="cuda") * 38).round().clamp(-127, 127).to(torch.int8)
scale = torch.full((heads,), 1 / 38, device="cuda")
smooth_scale = torch.ones(heads, head_dim, device="cuda")
write = (None, 1 / smooth_scale, centroids, scale, None, None, centroids, scale)
read = (None, smooth_scale, centroids, scale, None, None, centroids, scale)

numbers = torch.tensor([[0], [tokens], [0]], dtype=torch.int32, device="cuda")
codes = torch.zeros(batch, heads, tokens // 32, 32 * 2 * head_dim // 4, dtype=torch.uint8, device="cuda")
kernel.quantize(keys, values, codes, None, *numbers, *write)

nothing = torch.empty(batch, heads, 0, head_dim, **make)
exact = (nothing, nothing, nothing, nothing)
lengths = numbers[1]
output, _ = kernel.decode_attention(query, codes, None, *exact, lengths, lengths, *read, head_dim**-0.5)

reference = torch.nn.functional.scaled_dot_product_attention(query, keys, values, enable_gqa=True)
print(f"{keys.nbytes + values.nbytes:,} bytes became {codes.nbytes:,}")
print(f"largest difference from exact attention: {(output - reference).abs().max():.3f}")
