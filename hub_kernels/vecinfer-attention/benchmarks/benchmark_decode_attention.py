# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""decode_attention: time, code bytes, share of the copy bandwidth, and the best bf16 attention torch has.

    python benchmarks/benchmark_decode_attention.py            # every row
    python benchmarks/benchmark_decode_attention.py --quick    # the five 2-bit shapes only

The whole operator is timed: query transform, codes, exact sinks and ring (4 and 128 tokens, part of the length),
combining. CUDA-graph replay over rotating buffers larger than L2, no programmatic launch between calls. The peer is
F.scaled_dot_product_attention(enable_gqa=True) over the same number of bf16 tokens, the faster of cuDNN and flash.
"copy" is code bytes per second over the bandwidth of a device-to-device copy in the same run; "all" counts the exact
tokens' bytes too.
"""

from __future__ import annotations

import argparse
import math
import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import timing
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


# timing puts the tests' folder on the path.
import cases  # isort: skip
from decode_cases import Cache, relative_error  # isort: skip


ROTATE = 300e6  # bytes of codes to go round: several times L2


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    batch: int
    length: int
    bits: str = "d4b8"
    group: int = 4
    head_dim: int = 128
    residual_length: int = 128
    path: str = ""
    heads: int = 8
    transform: str = "diagonal"  # of queries; "full": of queries and outputs


MAIN = [Row(1, 196608), Row(8, 32768), Row(32, 8192), Row(64, 4096), Row(1, 32768)]
MORE = [
    Row(32, 8192, residual_length=32),
    Row(64, 4096, residual_length=32),
    Row(8, 32768, "d4b8x2"),
    Row(8, 32768, "d8b8"),
    Row(1, 4099),
    Row(1, 1021),
    *(Row(8, 32768, group=group) for group in (1, 2, 5, 7, 8, 12, 16)),
    Row(1, 77777, heads=4, group=7),
    Row(16, 12345, heads=4, group=7),
    Row(16, 32768, head_dim=64),
    Row(4, 32768, head_dim=256),
    Row(8, 32768, path="portable"),
    Row(8, 32768, group=8, path="portable"),
    Row(1, 4096, "d2b8", path="general"),
    *(Row(batch, length, transform="full") for batch, length in ((1, 196608), (8, 32768), (64, 4096), (1, 32768))),
    Row(1, 1021, transform="full"),
]


@contextmanager
def decode_path(name: str):
    """Ask for one of the operator's paths."""
    if name:
        os.environ["VECINFER_DECODE_PATH"] = name
    yield
    os.environ.pop("VECINFER_DECODE_PATH", None)


def value_transform(row: Row) -> str | None:
    """Return the values' transform; the paper's recipe has none."""
    return "full" if row.transform == "full" else None


def caches(row: Row) -> list[Cache]:
    """Return caches of one shape and codebook, enough to go round L2."""
    first = Cache(
        [row.length] * row.batch,
        heads=row.heads,
        group=row.group,
        head_dim=row.head_dim,
        key=row.bits,
        value=row.bits,
        residual_length=row.residual_length,
        transform=row.transform,
        value_transform=value_transform(row),
    )
    found = [first]
    for _ in range(max(2, math.ceil(ROTATE / first.codes.numel())) - 1):
        other = Cache(**{name: getattr(first, name) for name in first.__dataclass_fields__})
        other.codebook = first.codebook
        found.append(other)
    return found


def operator_time(row: Row, kernel, sets: list[Cache]) -> float:
    """Return the seconds of one call."""
    calls = []
    for cache in sets:
        lengths, quantized = cases.int32(*cache.lengths), cases.int32(*cache.quantized)

        def call(cache=cache, lengths=lengths, quantized=quantized):
            return kernel.decode_attention(
                cache.query, cache.codes, None, cache.sink_keys, cache.sink_values, cache.ring_keys, cache.ring_values,
                lengths, quantized, *cases.read_args(cache.codebook), cache.softmax_scale,
            )  # fmt: skip

        calls.append(call)
    with decode_path(row.path):
        return timing.graph_time(calls)


def operator_error(row: Row, kernel, cache: Cache) -> float:
    """Return the relative error of the first row and kv head against the float64 oracle."""
    one = Cache([row.length], heads=1, group=row.group, head_dim=row.head_dim, key=row.bits, value=row.bits,
                residual_length=row.residual_length, transform=row.transform,
                value_transform=value_transform(row))  # fmt: skip
    with decode_path(row.path):
        out, _ = one.run(kernel)
    return relative_error(out[0], one.expected(0)[0])


@lru_cache
def peer_time(batch: int, length: int, heads: int, group: int, head_dim: int) -> tuple[float, str]:
    """Return the seconds and the name of the fastest bf16 attention over as many tokens."""
    size = batch * length * heads * head_dim * 4
    count = max(2, math.ceil(ROTATE / size))
    shape = (batch, heads, length, head_dim)
    sets = [[torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(2)] for _ in range(count)]
    query = torch.randn(batch, heads * group, 1, head_dim, device="cuda", dtype=torch.bfloat16)
    best = (math.inf, "none")
    for name, backend in (("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)):

        def call(keys, values):
            with sdpa_kernel(backend):  # noqa: B023
                return F.scaled_dot_product_attention(query, keys, values, enable_gqa=True)

        try:
            time = timing.graph_time([lambda pair=pair: call(*pair) for pair in sets], launches=8, repeats=5)
        except RuntimeError:
            continue
        best = min(best, (time, name))
    return best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the five 2-bit shapes only")
    parser.add_argument("--no-peer", action="store_true", help="leave the peer out")
    options = parser.parse_args()
    kernel = timing.kernel()
    torch.manual_seed(0)
    bandwidth = timing.copy_bandwidth()
    print(timing.header())
    print(f"{'B':>3} {'L':>6} {'Hkv':>3} {'D':>3} {'G':>2} {'R':>3} {'format':7} {'path':8} {'transform':9} {'us':>7} "
          f"{'code MB':>8} {'GB/s':>5} {'copy':>5} {'all':>5} {'peer us':>8} {'peer':5} {'faster':>6} "
          f"{'error':>7}", flush=True)  # fmt: skip
    for row in MAIN if options.quick else MAIN + MORE:
        sets = caches(row)
        code_bytes = sum(-(-coded // 32) for coded in sets[0].quantized) * row.heads * sets[0].codes.shape[3]
        exact = row.batch * row.heads * (4 + row.residual_length) * row.head_dim * 4
        time = operator_time(row, kernel, sets)
        error = operator_error(row, kernel, sets[0])
        del sets
        torch.cuda.empty_cache()
        peer, name = (math.nan, "-")
        if not options.no_peer:
            peer, name = peer_time(row.batch, row.length, row.heads, row.group, row.head_dim)
            torch.cuda.empty_cache()
        print(f"{row.batch:3} {row.length:6} {row.heads:3} {row.head_dim:3} {row.group:2} "
              f"{row.residual_length:3} {row.bits:7} {row.path or 'hopper':8} {row.transform:9} "
              f"{time * 1e6:7.1f} {code_bytes / 1e6:8.1f} {code_bytes / time / 1e9:5.0f} "
              f"{code_bytes / time / bandwidth:5.2f} {(code_bytes + exact) / time / bandwidth:5.2f} "
              f"{peer * 1e6:8.1f} {name:5} {peer / time:6.2f} {error:7.1e}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
