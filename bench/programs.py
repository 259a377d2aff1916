"""Running programs and knowing what they cost: wall time, processor time, peak memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
FLOWTAP = (sys.executable, "-m", "flowtap")
EXAMPLES = ROOT / "target" / "release" / "examples"
MEMORY_POLL_S = 0.02


class ProgramError(Exception):
    """A program of the measurement failed."""


@dataclass(frozen=True)
class Run:
    """What one run of a program cost.

    Attributes:
        wall_s: From its start to its end.
        cpu_s: Processor time, its own and the kernel's for it.
        peak_octets: Most memory it had at once.
        output: Its standard output.
        errors: What it wrote to standard error.
        status: Its exit status.
    """

    wall_s: float
    cpu_s: float
    peak_octets: int
    output: str
    errors: str
    status: int

    @property
    def json(self) -> dict[str, Any]:
        """The JSON object that is its last line."""
        value: dict[str, Any] = json.loads(self.output.strip().splitlines()[-1])
        return value


@dataclass
class Program:
    """A running program."""

    words: list[str]
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    errors: IO[bytes]
    began: float
    peak_octets: int = 0
    watcher: threading.Thread | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def watch_memory(self) -> None:
        path = Path(f"/proc/{self.process.pid}/status")
        while not self.ended.wait(MEMORY_POLL_S):
            with contextlib.suppress(OSError):
                for line in path.read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        self.peak_octets = int(line.split()[1]) * 1024

    def printed(self) -> str:
        """What it has written so far."""
        self.output.seek(0)
        text = self.output.read()
        self.errors.seek(0)
        return (text + self.errors.read()).decode("utf-8", "replace")

    def has_ended(self) -> bool:
        """Whether it runs no more; what it cost is still to be asked for."""
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, how) is not None

    def wait_for(self, words: str, timeout_s: float = 10) -> None:
        """Waits until it says something.

        Raises:
            ProgramError: It ended first, or said nothing of the kind.
        """
        deadline = time.monotonic() + timeout_s
        while words not in self.printed():
            if self.has_ended() or time.monotonic() > deadline:
                message = f"{' '.join(self.words)}: did not say {words!r}: {self.printed()[-500:]}"
                raise ProgramError(message)
            time.sleep(0.01)

    def end(self, number: int | None = None, timeout_s: float = 60) -> Run:
        """Waits for its end, after a signal if one is given."""
        # Popen's own methods look whether it has ended, and would take what os.wait4 is to tell.
        if number is not None:
            os.kill(self.process.pid, number)
        timer = threading.Timer(timeout_s, os.kill, (self.process.pid, signal.SIGKILL))
        timer.start()
        _, status, usage = os.wait4(self.process.pid, 0)
        timer.cancel()
        wall_s = time.perf_counter() - self.began
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.ended.set()
        if self.watcher is not None:
            self.watcher.join()
        cpu_s = usage.ru_utime + usage.ru_stime
        output, errors = _whole(self.output), _whole(self.errors)
        return Run(wall_s, cpu_s, self.peak_octets, output, errors, self.process.returncode)


def _whole(stream: IO[bytes]) -> str:
    with stream:
        stream.seek(0)
        return stream.read().decode("utf-8", "replace")


def start(words: Sequence[str | Path], *, stdin: int = subprocess.DEVNULL, memory: bool = False) -> Program:
    """Starts a program."""
    # Closed by Program.end.
    output, errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
    began = time.perf_counter()
    text = [str(word) for word in words]
    process = subprocess.Popen(text, stdin=stdin, stdout=output, stderr=errors, cwd=ROOT)
    program = Program(text, process, output, errors, began)
    if memory:
        program.watcher = threading.Thread(target=program.watch_memory, daemon=True)
        program.watcher.start()
    return program


def run(
    words: Sequence[str | Path],
    *,
    stdin: int = subprocess.DEVNULL,
    memory: bool = False,
    timeout_s: float = 300,
) -> Run:
    """Runs a program to its end.

    Raises:
        ProgramError: Its exit status is not 0.
    """
    done = start(words, stdin=stdin, memory=memory).end(timeout_s=timeout_s)
    if done.status != 0:
        message = f"exit status {done.status}: {' '.join(map(str, words))}: {done.errors.strip()[-500:]}"
        raise ProgramError(message)
    return done


def version(program: str) -> str | None:
    """The line in which a program names its version; None if it is not there."""
    if shutil.which(program) is None:
        return None
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else ""


def build_limits() -> None:
    """Builds the limit programs."""
    words = ["cargo", "build", "-q", "--release", "-p", "flowtap-io", "--examples"]
    subprocess.run(words, check=True, cwd=ROOT)


@contextlib.contextmanager
def running(words: Sequence[str | Path], ready: str | None = None) -> Iterator[Program]:
    """A program beside the measurement, ended with it whatever happens."""
    program = start(words)
    try:
        if ready is not None:
            program.wait_for(ready)
        yield program
    finally:
        if program.process.returncode is None:
            program.end(signal.SIGKILL)
