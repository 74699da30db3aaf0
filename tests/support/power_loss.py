# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A process that stops at the n-th of its changes to files, and a machine that loses what was not synchronized.

Owns the model of a file system: a file's content is safe once it was synchronized, a rename once its directory was.
"""

import builtins
import os
import stat
from contextlib import contextmanager, suppress


class Stopped(BaseException):
    """The process has stopped: nothing it does from here on happens."""


class Machine:
    """Counts changes to files and stops at one of them.

    Args:
        stop_at: the change that does not happen any more, from 0; None for none.
        loses: what a machine that goes down with it loses of what was not synchronized: None (it stays up), "all", or
            "oldest", as a file system may that writes later renames first.
    """

    def __init__(self, stop_at=None, loses=None):
        self.stop_at, self.loses = stop_at, loses
        self.changes = 0
        self.log = []
        self._stopped = False
        self._unsafe = {}  # path -> descriptor of a file whose content may be lost
        self._renames = []  # (source, target, content of the target before or None), oldest first

    def change(self, name):
        """Count a change; raise if this one or an earlier one is where the process stops."""
        if self._stopped or self.changes == self.stop_at:
            self._stopped = True
            raise Stopped(name)
        self.changes += 1
        self.log.append(name)

    @contextmanager
    def running(self, monkeypatch):
        """Let everything inside happen on this machine; a stop ends it quietly, `stopped` says so."""
        real = {name: getattr(os, name) for name in ("replace", "fsync", "unlink", "mkdir")}
        opened = builtins.open

        def replace(source, target):
            self.change(f"replace {os.path.basename(target)}")
            before = None
            with suppress(FileNotFoundError):
                with opened(target, "rb") as file:
                    before = file.read()
            real["replace"](source, target)
            if os.fspath(source) in self._unsafe:
                self._unsafe[os.fspath(target)] = self._unsafe.pop(os.fspath(source))
            self._renames.append((os.fspath(source), os.fspath(target), before))

        def fsync(handle):
            self.change("fsync")
            real["fsync"](handle)
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                self._renames.clear()
            else:
                self._unsafe = {
                    path: inode for path, inode in self._unsafe.items() if inode != os.fstat(handle).st_ino
                }

        def unlink(path, **more):
            self.change(f"unlink {os.path.basename(path)}")
            real["unlink"](path, **more)

        def mkdir(path, *more, **options):
            self.change("mkdir")
            real["mkdir"](path, *more, **options)

        def open_file(path, mode="r", *more, **options):
            if "w" not in mode:
                return opened(path, mode, *more, **options)
            self.change(f"open {os.path.basename(path)}")
            file = opened(path, mode, *more, **options)
            self._unsafe[os.fspath(path)] = os.fstat(file.fileno()).st_ino
            write = file.write

            class Halfway:
                """A file of which only half a write happens when the process stops in it."""

                def __enter__(this):
                    return this

                def __exit__(this, *error):
                    file.close()

                def __getattr__(this, name):
                    return getattr(file, name)

                def write(this, content):
                    try:
                        self.change("write")
                    except Stopped:
                        write(content[: len(content) // 2])
                        raise
                    return write(content)

            return Halfway()

        with monkeypatch.context() as patch:
            for name, function in (("replace", replace), ("fsync", fsync), ("unlink", unlink), ("mkdir", mkdir)):
                patch.setattr(os, name, function)
            patch.setattr(builtins, "open", open_file)
            with suppress(Stopped):
                yield self
        if self._stopped and self.loses:
            self._lose()

    @property
    def stopped(self):
        """Whether the process stopped before its end."""
        return self._stopped

    def _lose(self):
        """Undo renames that were not synchronized, and empty files whose content was not."""
        for source, target, before in reversed(self._renames if self.loses == "all" else self._renames[:1]):
            os.replace(target, source)
            if before is not None:
                with open(target, "wb") as file:
                    file.write(before)
        for path in self._unsafe:
            if os.path.exists(path):
                os.truncate(path, 0)
