"""Starts daemons quickly: every one is a process of its own, but what it imports was imported once.

A process without threads imports the daemon, and forks for every start that it is asked for on its standard input.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from flowtap._flowtap import keep_rights


class Nursery:
    """The side of who wants daemons."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._children: list[Child] = []

    def _ask(self, **question: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(question)}\n".encode())
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, directory: Path, rights: list[str]) -> Child:
        """Starts ``flowtap run`` in a directory, with no more than some rights."""
        child = Child(self, self._ask(directory=str(directory), rights=rights))
        self._children.append(child)
        return child

    def status(self, pid: int) -> int:
        """How a child has ended; waits for it."""
        return os.waitstatus_to_exitcode(self._ask(ended=pid))

    def close(self) -> None:
        """Ends it, and those of its children that have not ended."""
        for child in self._children:
            if child.is_waited_for:
                child.end(signal.SIGKILL)
        self._process.communicate(timeout=10)


class Child:
    """One daemon."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self._pid = pid
        self._descriptor = os.pidfd_open(pid)
        self.is_waited_for = True

    @property
    def has_ended(self) -> bool:
        return bool(select.select([self._descriptor], [], [], 0)[0])

    def end(self, number: int) -> int:
        """Sends a signal and waits; returns the exit status."""
        self.is_waited_for = False
        os.kill(self._pid, number)
        os.close(self._descriptor)
        return self._nursery.status(self._pid)


def _run(directory: str, rights: list[str]) -> int:
    """What is left of a fork becomes a daemon."""
    from flowtap.cli.main import run  # noqa: PLC0415 - it is there already

    keep_rights(rights)
    log = os.open(f"{directory}/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor, number in ((nothing, 0), (nothing, 1), (log, 2)):
        os.dup2(descriptor, number)
    os.close(log)
    os.close(nothing)
    return run(["run", "--config", f"{directory}/flowtap.toml"])


def serve() -> None:
    """The side that forks."""
    import flowtap.cli.main  # noqa: PLC0415 - once, and in this process only
    import flowtap.service.daemon  # noqa: F401, PLC0415

    for line in iter(sys.stdin.buffer.readline, b""):
        question = json.loads(line)
        if "ended" in question:
            answer = os.waitpid(question["ended"], 0)[1]
        else:
            answer = os.fork()
            if answer == 0:
                os._exit(_run(question["directory"], question["rights"]))
        os.write(1, f"{answer}\n".encode())


if __name__ == "__main__":
    serve()
