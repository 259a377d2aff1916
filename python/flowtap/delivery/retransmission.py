"""What strongSwan has to be told so that it notices a dead peer in time: settings for all its tunnels."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowtap.config.tunnels import TunnelSection

__all__ = ["Retransmission", "strongswan_settings"]

BASE: Final = 1.5
TRIES_MAX: Final = 5
"""As strongSwan does it by itself."""
FIRST_MIN_S: Final = 1.0
"""Ways over the Internet take some tenths of a second at times; before, nothing needs to be sent again."""
FIRST_MAX_S: Final = 4.0
"""As strongSwan does it by itself."""
USED: Final = 0.95
"""The rest is for the timers of two machines, and for the message that says so."""


@dataclass(frozen=True, slots=True)
class Retransmission:
    """When a request to the peer is sent again, and how often; by itself strongSwan does it like this.

    Attributes:
        tries: How often after the first time.
        timeout_s: How long after the first time.
        base: How many times longer each wait is than the one before.
    """

    tries: int = 5
    timeout_s: float = 4.0
    base: float = 1.8

    @property
    def given_up_after_s(self) -> float:
        """How long it takes until the peer counts as dead: every wait, the last one as well."""
        waits = self.tries + 1
        try:
            if self.base == 1:
                return self.timeout_s * waits
            return self.timeout_s * (float(self.base) ** waits - 1) / (self.base - 1)
        except OverflowError:
            return inf

    @classmethod
    def within(cls, budget_s: float) -> Retransmission:
        """The one with most tries that gives up in time.

        A single loss must not end a tunnel, so there is at least one try, however short the waits are.
        """

        def fitting(tries: int) -> Retransmission:
            waits = sum(BASE**number for number in range(tries + 1))
            # Rounded down, so that the sum stays below.
            timeout_s = int(budget_s * USED / waits * 100) / 100
            return cls(tries, min(timeout_s, FIRST_MAX_S), BASE)

        every = map(fitting, range(TRIES_MAX, 0, -1))
        return next((each for each in every if each.timeout_s >= FIRST_MIN_S), fitting(1))


def strongswan_settings(tunnels: Iterable[tuple[str, TunnelSection]], group: str) -> str:
    """Settings for strongswan.conf, one section for each daemon that the tunnels name by its socket.

    Args:
        tunnels: Those of the configuration, each with the path of the socket.
        group: The group of the tap, which drives strongSwan.
    """
    by_socket: dict[str, list[TunnelSection]] = {}
    for path, each in tunnels:
        by_socket.setdefault(path, []).append(each)
    return "\n".join(_settings(path, sections, group) for path, sections in sorted(by_socket.items()))


def _settings(path: str, sections: list[TunnelSection], group: str) -> str:
    soonest = min(sections, key=lambda each: each.dead_peer_s - each.dpd_delay_s)
    delay_s, dead_s = soonest.dpd_delay_s, soonest.dead_peer_s
    chosen = Retransmission.within(dead_s - delay_s)
    silent_s = f"{chosen.given_up_after_s:.2f}"
    return f"""\
# Written by `flowtap config strongswan`, for the strongSwan whose socket is {path}:
# as /etc/strongswan.d/flowtap.conf, then `systemctl restart strongswan`.
charon-systemd {{
  # Who was silent for dpd_delay_s = {delay_s} is asked, and given up {silent_s} s later without an answer:
  # together within dead_peer_s = {dead_s}. By itself strongSwan takes 165 s, and as long copies go to nobody.
  retransmit_tries = {chosen.tries}
  retransmit_timeout = {chosen.timeout_s:.2f}
  retransmit_base = {chosen.base}
  # The socket belongs to this group then, so that the tap can use it without being root.
  group = {group}
  plugins {{
    vici {{
      socket = unix://{path}
    }}
  }}
}}
"""
