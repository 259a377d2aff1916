"""Notifications to the addresses that control sources have configured: by UDP, unacknowledged [DTCP §3.2]."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowtap.control import Congested, CopiesLost, Ended, Purged, Restarted
from flowtap.dtcp import IdRange, Notification, Parameter, Status, Version
from flowtap.dtcp.grammar import format_time, id_list_text, name_list_text
from flowtap.dtcp.render import render_notification

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from flowtap.control import Happening
    from flowtap.dtcp import Keys

__all__ = ["KNOWN", "Notifier", "Recipient", "content"]

_LOG = logging.getLogger(__name__)

FIRST_VERSION: Final = Version(0, 7)
"""The version of notifications to a control source that has not been heard of yet."""
KNOWN: Final[Mapping[Status, Version]] = {
    Status.SEQUENCE_ROLLOVER: Version(0, 6),
    Status.NOOP_NOTIFICATION: Version(0, 6),
    Status.CRITERION_TIMEOUT_DELETE: Version(0, 6),
    Status.CONGESTION: Version(0, 6),
    Status.DUPLICATES_DROPPED: Version(0, 6),
    Status.SERVER_RESTART: Version(0, 6),
    Status.CONGESTION_DELETE: Version(0, 6),
}
"""The first version that has each notification; none is sent in an earlier one [DTCP §3.2]."""
_KINDS: Final = {"idle_s": "Idle", "total_s": "Total", "packets": "Packets", "octets": "Bytes"}


@dataclass(frozen=True, slots=True)
class Recipient:
    """Where one control source wants its notifications, and in which version.

    Attributes:
        targets: Addresses and ports.
        version: The only version it gets; None for the one that it used last.
    """

    targets: tuple[tuple[str, int], ...]
    version: Version | None = None


def content(happened: Happening | Restarted) -> tuple[Status, tuple[Parameter, ...]]:
    """What a control source is told of something that has happened."""
    match happened:
        case Ended():
            return Status.CRITERION_TIMEOUT_DELETE, tuple(_ended(happened))
        case Congested():
            bandwidth = happened.bandwidth
            return Status.CONGESTION, (
                Parameter("Cdest-ID", name_list_text([happened.cdest_id])),
                Parameter("Average-Bandwidth", str(happened.average_bps)),
                Parameter("Alert-Bandwidth", str(bandwidth.soft_limit_bps)),
                Parameter("Max-Bandwidth", str(bandwidth.hard_limit_bps)),
            )
        case Purged():
            return Status.CONGESTION_DELETE, (
                Parameter("Cdest-ID", name_list_text([happened.cdest_id])),
                Parameter("Criteria-ID", id_list_text(_ranges(happened.criteria_ids))),
            )
        case CopiesLost():
            return Status.DUPLICATES_DROPPED, (
                Parameter("Cdest-ID", name_list_text([happened.cdest_id])),
                Parameter("Criteria-ID", str(happened.criteria_id)),
                Parameter("X-Dropped-Packets", str(happened.packets)),
                Parameter("X-Dropped-Bytes", str(happened.octets)),
            )
        case Restarted():
            silent = f"{format_time(happened.silent_from)} to {format_time(happened.silent_to)}"
            restored = f"{happened.restored} of {happened.total} criteria restored"
            info = f"restarted; {restored}; not copying {silent}"
            return Status.SERVER_RESTART, (Parameter("Alert-Info", info),)


def _ended(ended: Ended) -> Iterable[Parameter]:
    """The criterion, its time-outs, and what was left of them [DTCP §5.17]."""
    given = ended.intercept.timeouts
    kinds = [field for field in _KINDS if getattr(given, field)]
    yield Parameter("Criteria-ID", str(ended.intercept.criteria_id))
    for kind in kinds:
        yield Parameter(f"Timeout-{_KINDS[kind]}", str(getattr(given, kind)))
    for kind in kinds:
        yield Parameter(f"Remaining-{_KINDS[kind]}", str(getattr(ended.remaining, kind)))


def _ranges(ids: tuple[int, ...]) -> list[IdRange]:
    """Ids in ascending order as a list that names runs of them once."""
    found: list[IdRange] = []
    for number in ids:
        if found and found[-1].last == number - 1:
            found[-1] = IdRange(found[-1].first, number, single=False)
        else:
            found.append(IdRange(number, number, single=True))
    return found


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

    def open(self) -> list[tuple[str, int]]:
        """Opens the sockets that notifications leave from.

        Returns:
            Their addresses, which stay the same wherever notifications go.
        """
        for family, any_address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104
            try:
                self._of_family(family).bind((any_address, 0))
            except OSError as error:
                # This host does not speak it, so no notification will either.
                _LOG.debug("no socket for notifications: %s", error.strerror)
        return [sending.getsockname()[:2] for sending in self._sockets.values()]

    def heard(self, csource_id: str, version: Version) -> None:
        """Remembers which version a control source speaks."""
        self._last_version[csource_id] = version

    def notify(
        self, csource_id: str, status: Status, parameters: tuple[Parameter, ...], when: datetime
    ) -> bool:
        """Sends a notification to every target of one control source, and to nobody else.

        Returns:
            Whether there was anybody to tell.
        """
        recipient, key = self._recipients.get(csource_id), self._keys.key_for(csource_id)
        if recipient is None or key is None or not recipient.targets:
            return False
        version = recipient.version or self._last_version.get(csource_id, FIRST_VERSION)
        if version < KNOWN[status]:
            return False
        datagram = render_notification(Notification(version, status, when, parameters), key)
        for address, port in recipient.targets:
            try:
                self._socket(address).sendto(datagram, (address, port))
            except OSError as error:
                _LOG.warning("notification %d for %s was not sent: %s", status, csource_id, error.strerror)
        return True

    def _socket(self, address: str) -> socket.socket:
        return self._of_family(socket.AF_INET6 if ":" in address else socket.AF_INET)

    def _of_family(self, family: int) -> socket.socket:
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
