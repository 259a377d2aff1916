"""Notifications to the addresses that control sources have configured: by UDP, unacknowledged [DTCP §3.2]."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowtap.dtcp import Notification, Parameter, Status, Version
from flowtap.dtcp.render import render_notification

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from flowtap.control import Ended
    from flowtap.dtcp import Keys

__all__ = ["Notifier", "Recipient", "timeout_parameters"]

_LOG = logging.getLogger(__name__)

FIRST_VERSION = Version(0, 7)
"""The version of notifications to a control source that has not been heard of yet."""
_KINDS = {"idle_s": "Idle", "total_s": "Total", "packets": "Packets", "octets": "Bytes"}


@dataclass(frozen=True, slots=True)
class Recipient:
    """Where one control source wants its notifications, and in which version.

    Attributes:
        targets: Addresses and ports.
        version: The only version it gets; None for the one that it used last.
    """

    targets: tuple[tuple[str, int], ...]
    version: Version | None = None


def timeout_parameters(ended: Ended) -> tuple[Parameter, ...]:
    """What a 390 says: the criterion, its time-outs, and what was left of them [DTCP §5.17]."""
    given = ended.intercept.timeouts
    kinds = [field for field in _KINDS if getattr(given, field)]
    return (
        Parameter("Criteria-ID", str(ended.intercept.criteria_id)),
        *(Parameter(f"Timeout-{_KINDS[kind]}", str(getattr(given, kind))) for kind in kinds),
        *(Parameter(f"Remaining-{_KINDS[kind]}", str(getattr(ended.remaining, kind))) for kind in kinds),
    )


class Notifier:
    """Sends notifications; what cannot be sent is logged and forgotten, as the protocol wants it.

    Args:
        recipients: By control source.
        keys: The shared secrets that sign them.
    """

    def __init__(self, recipients: Mapping[str, Recipient], keys: Keys) -> None:
        self._recipients = recipients
        self._keys = keys
        self._last_version: dict[str, Version] = {}
        self._sockets: dict[int, socket.socket] = {}

    def apply(self, recipients: Mapping[str, Recipient], keys: Keys) -> None:
        """Takes over another configuration."""
        self._recipients = recipients
        self._keys = keys

    def heard(self, csource_id: str, version: Version) -> None:
        """Remembers which version a control source speaks."""
        self._last_version[csource_id] = version

    def notify(
        self, csource_id: str, status: Status, parameters: tuple[Parameter, ...], when: datetime
    ) -> None:
        """Sends a notification to every target of one control source, and to nobody else."""
        recipient, key = self._recipients.get(csource_id), self._keys.key_for(csource_id)
        if recipient is None or key is None:
            return
        version = recipient.version or self._last_version.get(csource_id, FIRST_VERSION)
        datagram = render_notification(Notification(version, status, when, parameters), key)
        for address, port in recipient.targets:
            try:
                self._socket(address).sendto(datagram, (address, port))
            except OSError as error:
                _LOG.warning("notification %d for %s was not sent: %s", status, csource_id, error.strerror)

    def _socket(self, address: str) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        if family not in self._sockets:
            sending = socket.socket(family, socket.SOCK_DGRAM)
            sending.setblocking(False)
            self._sockets[family] = sending
        return self._sockets[family]

    def close(self) -> None:
        """Lets go of the sockets."""
        for sending in self._sockets.values():
            sending.close()
        self._sockets.clear()
