"""Questions and orders to a running tap over its local socket."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowtap.cli.console import Exit, fail

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ask", "configuration_option", "order", "socket_of", "socket_option"]

TIMEOUT_S = 10.0
RETRY_S = 0.02


def socket_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the option that names the socket."""
    return click.option(
        "--socket",
        "path",
        type=click.Path(path_type=Path),
        default=Path("flowtap.sock"),
        show_default=True,
        help="The tap's local socket ([show] socket in its configuration).",
    )(command)


def configuration_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the option that names the configuration, which names the socket."""
    return click.option(
        "--config",
        "configuration",
        type=click.Path(path_type=Path),
        help="The tap's configuration; the socket that it names, in place of --socket.",
    )(command)


def socket_of(path: Path, configuration: Path | None) -> Path:
    """The socket: the configuration's where one is given.

    Raises:
        ConfigurationError: The configuration is wrong.
    """
    if configuration is None:
        return path
    from flowtap.config import load  # noqa: PLC0415 - who names the socket waits for no library

    loaded = load(configuration)
    return loaded.locate(loaded.values.show.socket)


def ask(path: Path, what: str) -> dict[str, Any]:
    """Asks a running tap.

    Raises:
        CommandError: There is none, it may not be asked, or it has no answer.
    """
    return _exchange(path, {"show": what})


def order(path: Path, what: str, argument: object) -> dict[str, Any]:
    """Has a running tap do something.

    Raises:
        CommandError: There is none, it may not be asked, or it could not be done.
    """
    return _exchange(path, {"do": what, "with": argument})


def _exchange(path: Path, question: object) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(TIMEOUT_S)
        try:
            _connect(asking, path)
            asking.sendall(json.dumps(question).encode() + b"\n")
            with asking.makefile("rb") as reader:
                answer: dict[str, Any] = json.loads(reader.readline())
        except PermissionError:
            fail(f"{path}: the socket may not be opened", Exit.RIGHT_MISSING)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no answer"
            fail(f"{path}: {reason}; is the tap running?")
    if "error" in answer and answer.keys() <= {"error", "refused"}:
        fail(str(answer["error"]), Exit.RIGHT_MISSING if answer.get("refused") else Exit.FAILED)
    return answer


def _connect(asking: socket.socket, path: Path) -> None:
    """Connects, and waits where others stand in line before us.

    Raises:
        OSError: Nobody listens, or nobody has taken us within the time.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            asking.connect(str(path))
        except BlockingIOError:
            # A local socket with a time limit does not wait for a place in the line (unix(7), EAGAIN).
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)
        else:
            return
