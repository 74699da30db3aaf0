# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Other processes for the Hub tests: new ones, and cheap ones forked from a process that has imported something.

The clients read HF_ENDPOINT when they are imported, so a test's own process never talks to the local Hub itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
STORY = ("publish_model", "calibrate_and_push", "load_and_generate", "run_the_card")
"""The functions of hub_story.py; the others are in hub_tasks.py, which imports less."""

_FORK_SERVER = """
import json, os, signal, sys, traceback
{preload}
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    task = json.loads(line)
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = 1
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(task["out"] + "/" + name, os.O_WRONLY | os.O_CREAT), number)
        os.environ.update(task["env"])
        exec(compile(task["code"], "<task>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        with open(task["out"] + "/code.tmp", "w") as file:
            file.write(str(code))
        os.rename(task["out"] + "/code.tmp", task["out"] + "/code")
        os._exit(code)
"""


@dataclass
class Finished:
    """What a process left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def result(self):
        """The JSON value in the last line it printed; fails with its error if it did not end well."""
        assert self.code == 0, self.stderr[-3000:]
        return json.loads(self.stdout.splitlines()[-1])


def environment(hub_url: str, **more: str) -> dict[str, str]:
    """An environment with the local Hub, without the tester's own tokens and caches."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "VECINFER", "KERNELS"))}
    paths = [str(ROOT), str(ROOT / "tests" / "support"), kept.get("PYTHONPATH", "")]
    return kept | {
        "HF_ENDPOINT": hub_url,
        # The local Hub speaks the large-file protocol that every client falls back to, not the newer chunk store.
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        **more,
    }


def run_fresh(code: str, hub_url: str, home: Path, **more: str) -> Finished:
    """Run `code` in a new Python process whose caches are under `home`: another machine."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(hub_url, HF_HOME=str(home), **more),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=home,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def _task(function: str, arguments: tuple, options: dict) -> str:
    module = "hub_story" if function in STORY else "hub_tasks"
    call = f"*json.loads({json.dumps(arguments)!r}), **json.loads({json.dumps(options)!r})"
    return f"import json, {module}\nprint(json.dumps({module}.{function}({call})))"


EVERYTHING = "import torch, hub_tasks, vecinfer_hf.hub"
"""For a person's further calls on a machine: the clients have read their settings."""
NO_CLIENT = "import torch, torch._dynamo, torch.distributed.tensor, yaml; assert 'huggingface_hub' not in sys.modules"
"""For a new machine: every client is imported by the task itself, with the task's caches and offline mode."""


class WarmPython:
    """A Python process that has run `preload`, and forks for every task."""

    def __init__(self, hub_url: str, home: Path, preload: str = EVERYTHING):
        self._home = home
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FORK_SERVER.replace("{preload}", preload)],
            env=environment(hub_url, HF_HOME=str(home)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout.readline() == "ready\n"

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=10)

    def start(self, code: str, **env: str) -> tuple[int, Path]:
        """Start `code`; returns its process id and the place of its output."""
        out = Path(tempfile.mkdtemp(prefix="task-", dir=self._home))
        task = {"code": code, "out": str(out), "env": env}
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline()), out

    def wait(self, started: tuple[int, Path], timeout: float = 60) -> Finished:
        pid, out = started
        end = time.monotonic() + timeout
        while not (out / "code").exists():
            assert time.monotonic() < end, f"still running: {(out / 'stderr').read_text()[-2000:]}"
            if not _alive(pid) and not (out / "code").exists():
                return Finished(-9, (out / "stdout").read_text(), (out / "stderr").read_text())
            time.sleep(0.01)
        return Finished(int((out / "code").read_text()), (out / "stdout").read_text(), (out / "stderr").read_text())

    def run(self, code: str, **env: str) -> Finished:
        return self.wait(self.start(code, **env))

    def begin(self, function: str, *arguments, token: str = "", **options) -> tuple[int, Path]:
        """Start a function of hub_tasks.py in its own process."""
        return self.start(_task(function, arguments, options), HF_TOKEN=token)

    def call_at(self, home: Path, function: str, *arguments, token: str = "", offline: bool = False, **options):
        """Return what a function returns in its own process, whose caches are under `home`."""
        more = {"HF_HUB_OFFLINE": "1"} if offline else {}
        home.mkdir(exist_ok=True)
        return self.run(_task(function, arguments, options), HF_TOKEN=token, HF_HOME=str(home), **more).result

    def call(self, function: str, *arguments, token: str = "", **options):
        """Return what a function of hub_tasks.py returns in its own process."""
        return self.wait(self.begin(function, *arguments, token=token, **options)).result


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
