# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Processes that run one model together on the CPU (gloo), as torchrun starts them but without its agent and port.

A task is a function of tensor_parallel_tasks.py; what rank 0 returns is JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
_PROCESS = """
import json, sys
import torch.distributed as dist
import tensor_parallel_tasks
store, task, arguments, out = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=%d, world_size=%d)
found = getattr(tensor_parallel_tasks, task)(*json.loads(arguments))
if dist.get_rank() == 0:
    with open(out, "w") as file:
        json.dump(found, file)
dist.destroy_process_group()
"""


def run_together(size: int, task: str, *arguments, timeout: float = 500):
    """Return what a task returns on rank 0 of `size` processes; an AssertionError with what a failed one printed."""
    with tempfile.TemporaryDirectory() as name:
        directory, started = Path(name), []
        for rank in range(size):
            paths = [str(ROOT), str(ROOT / "tests" / "support")]
            environment = {
                **os.environ,
                **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"},
                "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            }
            code = _PROCESS % (rank, size)
            command = [str(directory / "store"), task, json.dumps(arguments), str(directory / "found")]
            with open(directory / f"printed-{rank}", "w") as printed:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-c", code, *command], env=environment, stdout=printed, stderr=printed
                    )
                )
        try:
            deadline = time.monotonic() + timeout
            # A process that ends early leaves the others waiting for it.
            while any(process.poll() is None for process in started) and time.monotonic() < deadline:
                if any(process.poll() for process in started):
                    break
                time.sleep(0.05)
        finally:
            for process in started:
                if process.poll() is None:
                    process.kill()
            codes = [process.wait() for process in started]
        printed = [(directory / f"printed-{rank}").read_text()[-3000:] for rank in range(size)]
        assert codes == [0] * size, "\n".join(f"rank {rank}:\n{text}" for rank, text in enumerate(printed))
        return json.loads((directory / "found").read_text())
