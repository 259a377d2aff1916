"""The local socket: one JSON object a line asks, one answers. No addresses of subjects leave through it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from typing import TYPE_CHECKING, Any

from flowtap.control import PortError
from flowtap.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from flowtap import Stats

__all__ = ["ShowService", "stats_value"]

_LOG = logging.getLogger(__name__)

QUESTION_OCTETS = 4096


def stats_value(stats: Stats) -> dict[str, Any]:
    """An account as plain values."""
    return {
        "frames": stats.frames,
        "octets": stats.octets,
        "undecodable": stats.undecodable,
        "own": stats.own,
        "matched": stats.matched,
        "wanted": stats.wanted,
        "copied": stats.copied,
        "refused": stats.refused,
        "exported": stats.exported,
        "in_queue": stats.in_queue,
        "dropped": stats.dropped,
        "generation": stats.generation,
        "criteria": [
            {"id": each.id, "packets": each.packets, "octets": each.octets, "copies": each.copies}
            for each in stats.criteria
        ],
        "content_destinations": [
            {
                "id": each.id,
                "wanted": each.wanted,
                "copied": each.copied,
                "refused": each.refused,
                "exported": each.exported,
                "dropped": each.dropped,
                "last_error": each.last_error,
            }
            for each in stats.destinations
        ],
    }


class ShowService:
    """Answers on a socket that only the tap's own user can open.

    Args:
        path: The socket; one that nobody listens on any more is replaced.
        answers: What can be asked, and who answers it.
    """

    def __init__(self, path: Path, answers: Mapping[str, Callable[[], dict[str, Any]]]) -> None:
        self._path = path
        self._answers = answers
        self._socket = _listen(path)

    async def run(self) -> None:
        """Answers until cancelled."""
        server = await asyncio.start_unix_server(self._serve, sock=self._socket, limit=QUESTION_OCTETS)
        try:
            async with server:
                await server.serve_forever()
        finally:
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                question = await reader.readline()
            answer = await asyncio.to_thread(self._answer, question)
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (OSError, TimeoutError, ValueError) as error:
            _LOG.debug("a question was not answered: %s", type(error).__name__)
        finally:
            writer.close()

    def _answer(self, question: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(question)
            name = asked["show"] if isinstance(asked, dict) else None
        except (ValueError, KeyError):
            name = None
        answer = self._answers.get(name) if isinstance(name, str) else None
        if answer is None:
            return {"error": 'ask {"show": NAME} with one of ' + ", ".join(sorted(self._answers))}
        try:
            return answer()
        except PortError as error:
            return {"error": str(error)}


def _listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            _replace_if_dead(path)
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        raise ConfigurationError(f"show.socket: {path}: {reason}", key="show.socket") from None
    return listening


def _replace_if_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
