# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""How the benchmarks measure: CUDA-graph replay over rotating buffers, medians, the copy bandwidth of the same run."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import load  # noqa: E402


def kernel():
    """Return the built kernel; end with the command that builds it if there is none."""
    module = load()
    if module is None:
        raise SystemExit("Build the kernel first: python build_local.py")
    return module


def graph_time(calls, launches: int = 24, repeats: int = 9) -> float:
    """Return the seconds of one call: median over replays of a graph that goes round `calls`.

    Args:
        calls: functions without arguments, one per set of buffers; together their data should be larger than L2.
        launches: calls in the graph; at least one of each.
        repeats: replays.
    """
    launches = max(launches, len(calls))
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(launches):
            calls[index % len(calls)]()
    graph.replay()
    return event_time(graph.replay, repeats) / launches


def event_time(call, repeats: int = 9) -> float:
    """Return the median seconds of one call between two events."""
    call()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def copy_bandwidth(size: int = 1 << 30) -> float:
    """Return bytes read and written per second by a device-to-device copy of `size` bytes."""
    source, target = (torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    source.random_(0, 256)
    return 2 * size / event_time(lambda: target.copy_(source))


def header() -> str:
    """Return the line that says where the numbers come from."""
    name = torch.cuda.get_device_name()
    return f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, copy {copy_bandwidth() / 1e9:.0f} GB/s"
