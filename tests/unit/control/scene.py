"""What the tests of the control plane share: a real store, and a data plane that writes down what it is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from flowtap.control import (
    PERMISSION_TASK,
    ContentDestination,
    ControlPlane,
    ControlSource,
    Count,
    Ended,
    Intercept,
    Loss,
    Now,
    Policy,
    PortError,
    Principal,
    Restarted,
    Usage,
)
from flowtap.dtcp import (
    AddRequest,
    AddResult,
    DeleteRequest,
    Delivery,
    FilterText,
    IdRange,
    ListRequest,
    Parameter,
    RefreshRequest,
    Result,
    Timeouts,
    Version,
)
from flowtap.service import clock
from flowtap.service.filters import FilterReader
from flowtap.service.places import Places
from flowtap.service.store import SqlStore

V7 = Version(0, 7)
PLACES = Places(["eth0", "eth0.7", "eth1"], {"ge-0/0/0": "eth0"}, {"RED": ["eth1"]})
DELIVERY = Delivery(ip_address("198.51.100.7"), 30000, ip_address("198.51.100.1"), 65534)
OTHER_DELIVERY = Delivery(ip_address("198.51.100.8"), 30000, ip_address("198.51.100.1"), 65534)


def now(seconds: float = 0) -> Now:
    """A moment that many seconds after the scene's beginning."""
    wall = datetime(2026, 3, 2, 10, 0, 0) + timedelta(seconds=seconds)  # noqa: DTZ001 - as the protocol
    return Now(wall, 10**12 + int(seconds * 10**9))


def principal(login: str = "md", *permissions: str) -> Principal:
    return Principal(login, frozenset(permissions or (PERMISSION_TASK,)), ip_address("192.0.2.10"))


class RecordingDataPlane:
    """Knows what is active; fails when told to."""

    def __init__(self) -> None:
        self.active: dict[int, Intercept] = {}
        self.installed: list[tuple[int, ...]] = []
        self.count: dict[int, Count] = {}
        self.lost: list[Loss] = []
        self.fails = False

    def change(self, start: Collection[Intercept], stop: Collection[int]) -> None:
        if self.fails:
            raise PortError
        self.active = {number: each for number, each in self.active.items() if number not in stop}
        self.active |= {each.criteria_id: each for each in start}
        self.installed.append(tuple(sorted(self.active)))

    def losses(self) -> Collection[Loss]:
        if self.fails:
            raise PortError
        return self.lost

    def counts(self) -> Mapping[int, Count]:
        if self.fails:
            raise PortError
        return self.count


class Scene:
    """A control plane with its surroundings."""

    def __init__(self, directory: Path, *, journal: bool = True, **source: Any) -> None:
        self.path = directory / "flowtap.db"
        self.store = SqlStore(self.path, journal=journal)
        self.data_plane = RecordingDataPlane()
        self.control = ControlPlane(
            policy=policy(**source),
            store=self.store,
            data_plane=self.data_plane,
            filters=FilterReader(PLACES),
        )

    def restore(
        self, at: float = 0, usage: Usage | None = None, boot_id: str | None = None
    ) -> list[Restarted]:
        """What the daemon does at its start."""
        self.control.restore(
            self.store.running(),
            usage or Usage({}, clock.boot_id(), is_final=True),
            ended_without_record=self.store.ended_without_record,
            boot_id=boot_id or clock.boot_id(),
            now=now(at),
        )
        return self.control.resumed(now(at + 1))

    def expire(self, at: float) -> list[Ended]:
        return [each for each in self.control.tick(now(at)) if isinstance(each, Ended)]

    def add(self, login: str = "md", at: float = 0, **fields: Any) -> Result:
        return self.control.handle(principal(login), add_request(login, **fields), now(at))

    def added(self, login: str = "md", at: float = 0, **fields: Any) -> int:
        result = self.add(login, at, **fields)
        assert isinstance(result, AddResult), result
        return result.criteria_id

    def delete(self, *ids: int, login: str = "md", static: bool = True) -> Result:
        ranges = tuple(IdRange(each, each, single=True) for each in ids)
        request = DeleteRequest(V7, login, "1", criteria_ids=ranges, static=static)
        return self.control.handle(principal(login), request, now(1))

    def refresh(self, at: float = 0, login: str = "md", **fields: Any) -> Result:
        request = RefreshRequest(V7, login, "1", **fields)
        return self.control.handle(principal(login), request, now(at))

    def list(self, login: str = "md", at: float = 0, **fields: Any) -> Result:
        request = ListRequest(V7, login, "1", **fields)
        return self.control.handle(principal(login), request, now(at))

    @property
    def running(self) -> tuple[int, ...]:
        return tuple(each.criteria_id for each in self.control.intercepts)


def policy(**source: Any) -> Policy:
    """Two control sources, one of them as described, and one configured content destination."""
    return Policy(
        control_sources={
            "md": ControlSource("md", **source),
            "md2": ControlSource("md2"),
        },
        content_destinations={"cd1": ContentDestination("cd1", DELIVERY, refuse_oversize=True)},
    )


def add_request(login: str = "md", **fields: Any) -> AddRequest:
    values: dict[str, Any] = {
        "filter": FilterText(source="192.0.2.1"),
        "static": True,
        "cdest_ids": ("cd1",),
        "timeouts": Timeouts(),
        "extensions": (Parameter("X-Own", "1"),),
    }
    return AddRequest(V7, login, "1", **(values | fields))
