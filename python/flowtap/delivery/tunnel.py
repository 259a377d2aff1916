"""What every kind of tunnel is to the rest: a name, a state with its reason, and a gate that it holds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from flowtap.delivery.associations import IkeAssociation

__all__ = ["GateLike", "GuardLike", "Tunnel", "TunnelState", "TunnelStatus"]


class TunnelState(Enum):
    """How it is with a tunnel. Copies leave while it is up or suspect, and at no other time."""

    DOWN = "down"
    CONNECTING = "connecting"
    UP = "up"
    SUSPECT = "suspect"
    """It is up, but the other side has not answered for a while."""
    BLOCKED = "blocked"
    """Without its guard nothing is sent through it, whatever else there is."""


@dataclass(frozen=True, slots=True)
class TunnelStatus:
    """A tunnel at one moment.

    Attributes:
        name: As in the configuration.
        state: How it is.
        reason: Why, in words. No subject's address is in it; the gateways' may be.
        since_s: Since when that is its state, on the monotonic clock.
        associations: What strongSwan has for it.
        guard_faults: What its guard lacks.
        is_legacy: Whether it may use what is no longer recommended.
    """

    name: str
    state: TunnelState
    reason: str
    since_s: float
    associations: tuple[IkeAssociation, ...] = ()
    guard_faults: tuple[str, ...] = ()
    is_legacy: bool = False


class GateLike(Protocol):
    """What stops copies while a tunnel is not up."""

    @property
    def is_open(self) -> bool:
        """Whether copies may leave."""
        ...

    def open(self) -> None:
        """Lets copies leave."""
        ...

    def shut(self, in_doubt_s: float = 0.0) -> None:
        """Lets none leave any more, and says since when they may have been lost."""
        ...


class GuardLike(Protocol):
    """What keeps everything for the other side from leaving in clear."""

    async def install(self) -> list[str]:
        """Puts it in place; what is wrong with it then, in words."""
        ...

    async def verify(self) -> list[str]:
        """What is wrong with it, in words; nothing if it is sound."""
        ...

    async def changed(self, seen: int) -> int:
        """Waits until it may be another than it was; where nobody can tell, for ever.

        Args:
            seen: How many changes the caller knows of.

        Returns:
            How many there were by now.
        """
        ...


class Tunnel(Protocol):
    """A protected path that is kept up."""

    @property
    def name(self) -> str:
        """As in the configuration."""
        ...

    @property
    def status(self) -> TunnelStatus:
        """How it is with it."""
        ...

    async def run(self) -> None:
        """Keeps it up until cancelled; the gate is shut before anything else then."""
        ...

    def close(self) -> None:
        """Shuts the gate for good."""
        ...
