"""Starts the programs that talk and the ones that record, and stops them again by their own id."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

STOP_TIMEOUT_S = 5.0
POLL_S = 0.02


class RecordingError(Exception):
    """Something on the way to a capture did not work; the message says what."""


def run(*command: str | Path, timeout_s: float = 60.0, accept: tuple[int, ...] = (0,)) -> str:
    """Runs a program to its end.

    Args:
        command: the program and its arguments.
        timeout_s: after this time the program is killed.
        accept: the exit statuses that are no failure.

    Returns:
        What the program wrote to its standard output.

    Raises:
        RecordingError: another exit status, or out of time.
    """
    words = [str(word) for word in command]
    try:
        completed = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        message = f"no end after {timeout_s:g} s: {' '.join(words)}"
        raise RecordingError(message) from error
    except FileNotFoundError as error:
        message = f"program not found: {words[0]}"
        raise RecordingError(message) from error
    if completed.returncode not in accept:
        complaint = completed.stderr.decode(errors="replace").strip()[-2000:]
        message = f"exit status {completed.returncode}: {' '.join(words)}\n{complaint}"
        raise RecordingError(message)
    return completed.stdout.decode(errors="replace")


class Processes:
    """The programs that run in the background; leaving the `with` block stops every one of them."""

    def __init__(self, log_directory: Path) -> None:
        self._log_directory = log_directory
        self._running: list[subprocess.Popen[bytes]] = []
        self._logs: dict[int, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in reversed(self._running[:]):
            self.stop(process)

    def start(self, name: str, *command: str | Path) -> subprocess.Popen[bytes]:
        """Starts a program; its output goes to a log file in the working directory."""
        words = [str(word) for word in command]
        log = self._log_directory / f"{name}.{len(self._logs)}.log"
        with log.open("wb") as stream:
            # It gets a session of its own: a Ctrl-C in the terminal is ours to pass on.
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=self._log_directory,
                start_new_session=True,
            )
        self._running.append(process)
        self._logs[process.pid] = log
        return process

    def log_of(self, process: subprocess.Popen[bytes]) -> str:
        """What a background program has written so far."""
        return self._logs[process.pid].read_text(errors="replace")

    def wait_for_text(self, process: subprocess.Popen[bytes], text: str, timeout_s: float = 10.0) -> None:
        """Waits until a background program has written `text`."""
        deadline = time.monotonic() + timeout_s
        while text not in self.log_of(process):
            if process.poll() is not None or time.monotonic() > deadline:
                message = f"{process.args!r} did not say {text!r}:\n{self.log_of(process)[-2000:]}"
                raise RecordingError(message)
            time.sleep(POLL_S)

    def stop(self, process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
        """Ends one background program, by force if it does not obey in time."""
        if process in self._running:
            self._running.remove(process)
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
