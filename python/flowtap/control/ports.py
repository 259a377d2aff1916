"""What the control plane needs from outside, as protocols; it does no I/O of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from contextlib import AbstractContextManager
    from datetime import datetime

    from flowtap.control.audit import AuditRecord
    from flowtap.control.model import Count, Intercept
    from flowtap.dtcp.messages import FilterText

__all__ = ["DataPlane", "FilterCheck", "FilterFault", "PortError", "Store", "Transaction"]


class PortError(Exception):
    """A store or data plane could not do what was asked; its text names no subject."""


class Transaction(Protocol):
    """Changes of the journal and the audit log that become durable together."""

    def start(self, intercept: Intercept) -> None:
        """Records that an intercept runs from now on."""

    def end(self, criteria_id: int, when: datetime, reason: str) -> None:
        """Records that it does not any more."""

    def sequence(self, csource_id: str, highest: int) -> None:
        """Records the highest sequence number of a control source."""

    def audit(self, record: AuditRecord) -> None:
        """Appends to the audit log."""


class Store(Protocol):
    """The journal, the audit log and the counter of criteria ids."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """A transaction, durable when its context ends without an exception.

        Raises:
            PortError: It could not be made durable; nothing of it is.
        """

    def last_criteria_id(self) -> int:
        """The highest id that was ever given out, 0 for none."""


class DataPlane(Protocol):
    """The tap."""

    def install(self, intercepts: Collection[Intercept]) -> None:
        """Makes exactly these intercepts the active ones; returns when no worker uses older ones.

        Raises:
            PortError: The data plane failed.
        """

    def counts(self) -> Mapping[int, Count]:
        """What was counted, by criteria id; an intercept may be missing.

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


class FilterCheck(Protocol):
    """Knows whether a filter can be compiled."""

    def __call__(self, text: FilterText) -> None:
        """Checks a filter.

        Raises:
            FilterFault: It cannot be compiled.
        """
