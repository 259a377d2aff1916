"""The live part of `flowtap bench`: what a tap costs whoever sends, on a cable made for the measurement."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowtap.bench.namespaces import Network
from flowtap.errors import DataPlaneError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from flowtap.bench.namespaces import Host
    from flowtap.bench.traffic import Plan

__all__ = ["Cable", "cable"]

SENDING, TAPPED = "a0", "b0"
SETTLE_S = 0.2
"""From the last frame to the signal that ends a tap."""
END_TIMEOUT_S = 20.0
SEND_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Cable:
    """Two hosts and a cable between them; one sends, the other taps."""

    sender: Host
    tap: Host

    def send(self, plan: Plan, frames: int) -> tuple[int, float]:
        """Sends frames of a plan with nobody beside; returns frames and seconds."""
        length = "imix" if plan.length_octets is None else str(plan.length_octets)
        words = ("-m", "flowtap.bench.sender", SENDING, str(frames), "--length", length)
        share = ("--hosts", str(plan.hosts), "--match", str(plan.match_share), "--seed", str(plan.seed))
        done = subprocess.run(  # noqa: S603 - ourselves
            [*self.sender.inside, sys.executable, *words, *share],
            capture_output=True,
            text=True,
            check=False,
            timeout=SEND_TIMEOUT_S,
        )
        if done.returncode != 0:
            raise DataPlaneError(done.stderr.strip())
        result = json.loads(done.stdout)
        return result["frames"], result["elapsed_s"]

    def send_tapped(self, plan: Plan, frames: int, *tap: str) -> tuple[int, float]:
        """The same with a tap at the other end, whose account must hold every frame that it wants."""
        with _tap(
            [*self.tap.inside, sys.executable, "-m", "flowtap.bench.live_tap", TAPPED, *tap]
        ) as process:
            sent, elapsed_s = self.send(plan, frames)
            time.sleep(SETTLE_S)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=END_TIMEOUT_S)
        if process.returncode != 0:
            raise DataPlaneError(errors.strip())
        account: dict[str, Any] = json.loads(output)
        if "--everything" in tap and account["matched"] + account["kernel_dropped"] != sent:
            message = f"{sent} frames were sent, and the tap knows of {account['matched']} and its losses"
            raise DataPlaneError(message)
        return sent, elapsed_s


@contextmanager
def _tap(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True)  # noqa: S603 - ourselves
    try:
        line = process.stdout.readline() if process.stdout is not None else ""
        if line != "ready\n":
            _, errors = process.communicate(timeout=END_TIMEOUT_S)
            raise DataPlaneError(errors.strip())
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def cable(stack: ExitStack) -> Cable:
    """Makes both hosts; they are gone with the stack.

    Raises:
        PermissionMissingError: We are not root, or the program ip is missing.
    """
    network = stack.enter_context(Network())
    made = Cable(network.host(), network.host())
    network.cable(made.sender, SENDING, made.tap, TAPPED)
    made.sender.set_up(SENDING)
    made.tap.set_up(TAPPED)
    return made
