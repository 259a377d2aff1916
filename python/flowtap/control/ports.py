"""What the control plane needs from outside, as protocols; it does no I/O of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from contextlib import AbstractContextManager
    from datetime import datetime

    from flowtap.control.audit import AuditRecord
    from flowtap.control.model import Count, Intercept, Now
    from flowtap.dtcp.messages import FilterText, Scope

__all__ = [
    "DataPlane",
    "FilterFault",
    "Filters",
    "Loss",
    "PortError",
    "Reach",
    "ScopeFault",
    "Space",
    "Store",
    "Transaction",
]


class PortError(Exception):
    """A store or data plane could not do what was asked; its text names no subject."""


class Transaction(Protocol):
    """Changes of the journal and the audit log that become durable together."""

    def start(self, intercept: Intercept, now: Now) -> None:
        """Records an intercept from now on."""

    def update(self, intercept: Intercept, now: Now) -> None:
        """Records what has changed of it."""

    def end(self, criteria_id: int, when: datetime, reason: str) -> None:
        """Records that it does not run any more."""

    def sequence(self, csource_id: str, highest: int | None) -> None:
        """Records the highest sequence number of a control source; None forgets it."""

    def audit(self, record: AuditRecord) -> None:
        """Appends to the audit log."""


class Store(Protocol):
    """The journal, the audit log and the counter of criteria ids."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """A transaction, durable when its context ends without an exception.

        Raises:
            PortError: It could not be made durable; nothing of it is.
        """

    def mark_ended(self, criteria_ids: Collection[int]) -> None:
        """Keeps it in mind, as well as possible, that these have ended though no transaction could say so.

        The next transaction that says it makes it unnecessary.
        """

    def last_criteria_id(self) -> int:
        """The highest id that was ever given out, 0 for none."""


class Loss(Protocol):
    """Copies of one criterion for one content destination that were not sent."""

    @property
    def criteria_id(self) -> int:
        """The criterion."""

    @property
    def cdest_id(self) -> str:
        """The content destination."""

    @property
    def packets(self) -> int:
        """How many, since the criterion began to copy."""

    @property
    def octets(self) -> int:
        """Octets of the packets that were not copied."""


class DataPlane(Protocol):
    """The tap."""

    def change(self, start: Collection[Intercept], stop: Collection[int]) -> None:
        """Lets intercepts begin, or go on as they are now, and others end.

        Returns when no worker copies for those that have ended.

        Raises:
            PortError: The data plane failed.
        """

    def counts(self) -> Mapping[int, Count]:
        """What was counted, by criteria id; an intercept may be missing.

        Raises:
            PortError: The data plane failed.
        """

    def losses(self) -> Collection[Loss]:
        """What was lost of the intercepts that run.

        Raises:
            PortError: The data plane failed.
        """


class FilterFault(Exception):  # noqa: N818 - a finding about the peer's text, not a failure
    """A filter that cannot be.

    Attributes:
        field: The field of `FilterText`.
        value: What it says.
        info: What is wrong and what would be right.
        is_syntax: Whether it cannot even be read.
    """

    def __init__(self, field: str, value: str, info: str, *, is_syntax: bool) -> None:
        super().__init__(info)
        self.field = field
        self.value = value
        self.info = info
        self.is_syntax = is_syntax


class ScopeFault(Exception):  # noqa: N818 - a finding about the peer's text, not a failure
    """An interface or routing instance that is not tapped.

    Attributes:
        name: The parameter.
        value: What it says.
        info: What is wrong.
    """

    def __init__(self, name: str, value: str, info: str) -> None:
        super().__init__(info)
        self.name = name
        self.value = value
        self.info = info


class Reach(Protocol):
    """How far a filter reaches."""

    def narrowness(self, family: Literal[4, 6], /) -> int | None:
        """The length of a prefix that is as wide; None where no packet of the family matches."""


class Space(Protocol):
    """Addresses that a policy allows."""

    def covers(self, reach: Reach, /) -> bool:
        """Whether every packet that a filter can match has an address in the space."""


class Filters(Protocol):
    """Reads filters."""

    def __call__(self, text: FilterText, scope: Scope) -> Reach:
        """Reads one.

        Raises:
            FilterFault: It cannot be compiled.
            ScopeFault: Its scope names something that is not there.
        """
