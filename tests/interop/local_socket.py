"""The tap's own local socket, which answers with what a test wants to be shown."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from flowtap.control import PERMISSION_VIEW
from flowtap.service.show import ShowService

if TYPE_CHECKING:
    from flowtap.control import Principal
    from flowtap.service.logins import Logins


class _Everybody:
    """Lets everybody look."""

    def of_uid(self, _uid: int | None) -> Any:
        return SimpleNamespace(name="operator", permissions=frozenset({PERMISSION_VIEW}))


@contextmanager
def answering(path: Path, views: Mapping[str, Any]) -> Iterator[Path]:
    """Answers over the socket until the block ends; the views may change meanwhile."""

    def view(name: str) -> Any:
        async def shown(_principal: Principal) -> dict[str, Any]:
            return dict(views[name])

        return shown

    service = ShowService(path, cast("Logins", _Everybody()), {name: view(name) for name in views}, {})
    loop = asyncio.new_event_loop()
    task = loop.create_task(service.run())

    def serve() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield path
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(timeout=10)
        assert not thread.is_alive()


IKE = {
    "remote_host": "123.123.123.123",
    "state": "ESTABLISHED",
    "initiator_spi": "2d79657b04657b2f",
    "responder_spi": "9a5223ce9a529048",
    "version": 1,
    "encryption": "3DES_CBC",
    "integrity": "HMAC_SHA1_96",
    "prf": "PRF_HMAC_SHA1",
    "dh_group": "MODP_1024",
    "established_s": 12,
    "rekey_s": 77_000,
}
CHILD = {
    "name": "To-TTP-Company",
    "state": "INSTALLED",
    "mode": "TUNNEL",
    "protocol": "ESP",
    "spi_in": "f2f22d5b",
    "spi_out": "c5142a28",
    "encryption": "3DES_CBC",
    "integrity": "HMAC_SHA1_96",
    "local": ["100.100.100.101/32"],
    "remote": ["2.2.2.0/27"],
    "packets_in": 3,
    "packets_out": 13,
    "octets_in": 252,
    "octets_out": 662,
    "encapsulated": True,
}
TUNNEL = {
    "index": 1,
    "name": "IPSEC-TTP-Company-1",
    "state": "up",
    "reason": "an association with the right selectors is installed",
    "since": "2026-11-25T20:00:00+00:00",
    "service_set": None,
    "rule": None,
    "term": None,
    "interface": "sp-0/3/0.1",
    "mtu_octets": 1500,
    "local_gateway": "100.100.100.100",
    "remote_gateway": "123.123.123.123",
    "local_networks": ["100.100.100.101/32"],
    "remote_networks": ["2.2.2.0/27"],
    "guard_faults": [],
    "ike": [IKE],
    "ipsec": [CHILD],
}
"""The tunnel of the how-to, with what its router showed."""
DOWN = {
    **TUNNEL,
    "index": 2,
    "name": "other",
    "state": "blocked",
    "reason": "the guard is not sound",
    "remote_gateway": "123.123.123.124",
    "guard_faults": ["chain out: is missing"],
    "ike": [],
    "ipsec": [],
}
