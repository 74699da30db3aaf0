# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Compiler processes: several at a time, a log of what they said, and none left behind after an error or Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from ..errors import KernelBuildError


_SHOWN = 20
"""Lines of a failed compiler's output that the error carries."""


class Runner:
    """Runs commands and writes them with their output to a log.

    Args:
        log: path of the log, begun anew.
        temporary: directory of the compilers' own temporary files.
    """

    def __init__(self, log: Path, temporary: Path):
        self._log = log
        self._environment = os.environ | {"TMPDIR": str(temporary)}
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen] = set()
        self._stopped = False
        log.write_text("")

    def run(self, commands: list[list[str]], jobs: int, done: Callable[[list[str], str], None]) -> None:
        """Run commands, at most `jobs` at a time; `done` takes each command with its output when it has ended.

        Raises:
            KernelBuildError: if one fails; the others are stopped.
        """
        pool = ThreadPoolExecutor(jobs)
        try:
            futures = {pool.submit(self._one, command): command for command in commands}
            for future in as_completed(futures):
                done(futures[future], future.result())
        finally:
            # Also after Ctrl-C: nothing is left to do if all went well.
            self._stop()
            pool.shutdown(wait=True, cancel_futures=True)
            self._stopped = False

    def _one(self, command: list[str]) -> str:
        with self._lock:
            if self._stopped:
                return ""
            try:
                # A session of its own: one signal ends a compiler with the programs that it starts.
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                    env=self._environment,
                )
            except OSError as error:
                raise KernelBuildError(f"{command[0]} cannot be run ({error.strerror}).") from None
            self._processes.add(process)
        output, _ = process.communicate()
        with self._lock:
            self._processes.discard(process)
            self._write(command, output)
            stopped = self._stopped
        if process.returncode and not stopped:
            raise self._failure(command, process.returncode, output)
        return output

    def _write(self, command: list[str], output: str) -> None:
        # A full disk: the error has the last lines all the same.
        with suppress(OSError), self._log.open("a", encoding="utf-8") as file:
            file.write(f"{' '.join(command)}\n{output}\n")

    def _failure(self, command: list[str], code: int, output: str) -> KernelBuildError:
        what = next((Path(word).name for word in command if word.endswith((".cu", ".cpp"))), "the library")
        why = f"ended with code {code}" if code > 0 else f"was ended by signal {-code} (too little memory?)"
        if "No space left on device" in output:
            why = "found no space left on the device"
        return KernelBuildError(f"{command[0]} {why} at {what}.", output.rstrip().splitlines()[-_SHOWN:])

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
