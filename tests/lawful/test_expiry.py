"""Every intercept ends when it has to: in the data plane itself, whether or not anybody looks, static or not."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from daemon import CAPTURE
from scene import PLACES, V7, Scene, add_request, now, policy, principal

from flowtap import Criteria, Engine, FilterTable, LinkType, Tap
from flowtap._flowtap import UsageFile
from flowtap.control import (
    ContentDestination,
    ControlPlane,
    ControlSource,
    Count,
    Ended,
    Now,
    Policy,
    Usage,
)
from flowtap.delivery.paths import Paths
from flowtap.dtcp import (
    AddResult,
    Delivery,
    ErrorResult,
    FilterText,
    IdRange,
    Parameter,
    RefreshRequest,
    RefreshResult,
    Status,
    Timeouts,
)
from flowtap.service import clock
from flowtap.service.dataplane import TapDataPlane
from flowtap.service.filters import FilterReader
from flowtap.service.store import SqlStore


class Unattended:
    """A control plane over a real tap and a real wire, of which nobody ever asks what has run out."""

    def __init__(self, directory: Path, **source: Any) -> None:
        self.directory = directory
        self.ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.ear.bind(("127.0.0.1", 0))
        self.ear.setblocking(False)
        address = ip_address("127.0.0.1")
        delivery = Delivery(address, self.ear.getsockname()[1], address, 40_031)
        self.policy = Policy(
            {"md": ControlSource("md", **source)}, {"cd1": ContentDestination("cd1", delivery)}
        )
        self.open()

    def open(self) -> None:
        self.tap = Tap.replay([str(CAPTURE)], FilterTable.compile([]), pace=500, loop=True)
        self.tap.start()
        self.store = SqlStore(self.directory / "s.db")
        self.usage = UsageFile(str(self.directory / "s.db-usage"), uuid.UUID(clock.boot_id()).bytes)
        self.control = ControlPlane(
            policy=self.policy,
            store=self.store,
            data_plane=TapDataPlane(self.tap, PLACES, self.usage, Paths({}, {})),
            filters=FilterReader(PLACES),
        )

    def add(self, **fields: Any) -> None:
        request = add_request(filter=FilterText(source="192.0.2.10"), **fields)
        assert self.control.handle(principal(), request, clock.now()) == AddResult(1)

    def heard(self) -> int:
        """Copies that have arrived since it was asked last."""
        count = 0
        while True:
            try:
                self.ear.recv(65_536)
            except BlockingIOError:
                return count
            count += 1

    def until_silent(self) -> int:
        """All copies that arrive until none has come for a while."""
        count = 0
        deadline = time.monotonic() + 20
        while True:
            assert time.monotonic() < deadline
            time.sleep(0.5)
            more = self.heard()
            if count and not more:
                return count
            count += more

    def close(self) -> None:
        self.tap.stop()
        self.store.close()


@pytest.fixture
def unattended(tmp_path: Path) -> Iterator[Unattended]:
    made = Unattended(tmp_path)
    yield made
    made.close()
    made.ear.close()


def in_a_second() -> tuple[Parameter, ...]:
    end = (clock.now().wall + timedelta(seconds=1)).isoformat()
    return (Parameter("X-FlowTap-Order", "2026/17"), Parameter("X-FlowTap-Order-End", end))


def test_the_data_plane_ends_what_has_run_out_without_being_told(unattended: Unattended) -> None:
    unattended.add(static=False, timeouts=Timeouts(total_s=1))
    unattended.until_silent()
    # The registry has not noticed; it is told with the next look, and then it is on record.
    assert len(unattended.control.intercepts) == 1
    (ended,) = [each for each in unattended.control.tick(clock.now()) if isinstance(each, Ended)]
    assert ended.reason == "total"


def test_the_end_of_an_order_is_enforced_there_too(unattended: Unattended) -> None:
    unattended.add(static=True, extensions=in_a_second())
    unattended.until_silent()
    (ended,) = [each for each in unattended.control.tick(clock.now()) if isinstance(each, Ended)]
    assert ended.reason == "order"


@pytest.mark.parametrize("budget", [1, 7, 40])
def test_not_one_packet_more_than_the_budget(unattended: Unattended, budget: int) -> None:
    unattended.add(static=False, timeouts=Timeouts(packets=budget))
    assert unattended.until_silent() == budget


def test_the_packet_that_uses_up_the_octets_is_the_last_one(unattended: Unattended) -> None:
    unattended.add(static=False, timeouts=Timeouts(octets=1))
    assert unattended.until_silent() == 1


def test_a_fragment_that_waited_is_not_copied_for_what_has_ended_meanwhile() -> None:
    """Not in the end either, when everything that waits is decided."""
    later = bytes.fromhex("45000024 00090003 40110000 c0000201 c6336402") + bytes(16)
    whole = bytes.fromhex("4500001c 00010000 40110000 c0000201 c6336402 0001003500080000")
    other = bytes.fromhex("4500001c 00010000 40110000 c6336402 c0000201 0001003500080000")
    # The second criterion needs the port, for which the fragment waits.
    ends = Criteria(1, source="192.0.2.1", timeout_total_s=10)
    engine = Engine(
        FilterTable.compile([ends, Criteria(2, source="192.0.2.1", destination_port=99)]), LinkType.IPV4
    )
    engine.feed(other, timestamp_ns=1_000_000_000)
    assert len(engine.feed(whole, timestamp_ns=2_000_000_000)) == 1
    assert len(engine.feed(whole, timestamp_ns=20_000_000_000)) == 0
    engine.feed(later, timestamp_ns=21_000_000_000)
    assert len(engine.flush()) == 0
    assert engine.stats().copied == 1


def test_a_refresh_gives_what_it_says_and_no_more(unattended: Unattended) -> None:
    unattended.add(static=False, timeouts=Timeouts(packets=3))
    assert unattended.until_silent() == 3
    ids = (IdRange(1, 1, single=True),)
    unattended.control.handle(
        principal(), RefreshRequest(V7, "md", "1", Timeouts(packets=4), criteria_ids=ids), clock.now()
    )
    assert unattended.until_silent() == 4


def test_a_restart_gives_nothing_back(unattended: Unattended) -> None:
    """What an earlier run has used of a budget stays used."""
    unattended.add(static=False, timeouts=Timeouts(packets=60))
    used = 0
    deadline = time.monotonic() + 10
    while used < 10:
        assert time.monotonic() < deadline
        used += unattended.heard()
    unattended.close()
    used += unattended.heard()
    assert used < 60
    unattended.open()
    unattended.control.restore(
        unattended.store.running(),
        Usage({1: Count(used, 100)}, clock.boot_id(), is_final=True, until=clock.now()),
        ended_without_record=frozenset(),
        boot_id=clock.boot_id(),
        now=clock.now(),
    )
    assert unattended.until_silent() == 60 - used


# --- policy can demand an end for every one --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"static": True},
        {"static": True, "timeouts": Timeouts(idle_s=5)},
        {"static": False, "timeouts": Timeouts(total_s=60)},
    ],
)
def test_with_a_longest_lifetime_everything_ends_static_or_not(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    scene = Scene(tmp_path, max_lifetime_s=60)
    scene.added(**fields)
    assert scene.expire(59) == []
    assert len(scene.expire(60)) == 1
    assert scene.running == ()
    scene.store.close()


def test_with_a_longest_lifetime_no_refresh_goes_beyond_it(tmp_path: Path) -> None:
    """It is counted from the ADD on, however often somebody asks for more, and over a restart of the host."""
    scene = Scene(tmp_path, max_lifetime_s=60)
    number = scene.added(static=False, timeouts=Timeouts(total_s=30))
    for at in (20, 40.5):
        result = scene.refresh(at, cdest_id="cd1", timeouts=Timeouts(total_s=30))
        assert isinstance(result, RefreshResult)
    (shown,) = scene.control.intercepts
    assert (shown.timeouts.total_s, scene.control.next_deadline_ns()) == (20, now(60).monotonic_ns)
    scene.store.close()
    again = Scene(tmp_path, max_lifetime_s=60)
    again.restore(50)
    assert isinstance(again.refresh(55, cdest_id="cd1", timeouts=Timeouts(total_s=60)), RefreshResult)
    assert again.control.next_deadline_ns() == now(60).monotonic_ns
    # Stricter than when it began: what has lasted so long gets no more.
    again.control.apply_policy(policy(max_lifetime_s=50), now(56))
    result = again.refresh(57, cdest_id="cd1", timeouts=Timeouts(total_s=1))
    assert isinstance(result, ErrorResult)
    assert result.status is Status.IMPROPER_TIMEOUT
    assert again.expire(59.5) == []
    assert [each.intercept.criteria_id for each in again.expire(60)] == [number]
    again.store.close()


def test_with_a_longest_lifetime_nothing_can_ask_for_more(tmp_path: Path) -> None:
    scene = Scene(tmp_path, max_lifetime_s=60)
    for timeouts in (
        Timeouts(total_s=61),
        Timeouts(idle_s=5),
        Timeouts(packets=1),
        Timeouts(total_s=0, idle_s=1),
    ):
        result = scene.add(static=False, timeouts=timeouts)
        assert isinstance(result, ErrorResult)
        assert result.status is Status.IMPROPER_TIMEOUT
    scene.added(static=False, timeouts=Timeouts(total_s=60))
    for timeouts in (Timeouts(total_s=61), Timeouts(total_s=0, idle_s=5)):
        result = scene.refresh(1, cdest_id="cd1", timeouts=timeouts)
        assert isinstance(result, ErrorResult)
        assert result.status is Status.IMPROPER_TIMEOUT
    scene.store.close()


def test_where_an_order_is_needed_there_is_no_intercept_without_one(tmp_path: Path) -> None:
    scene = Scene(tmp_path, needs_order=True)
    assert isinstance(scene.add(), ErrorResult)
    end = Parameter("X-FlowTap-Order-End", "2026-03-02T10:01:00Z")
    scene.added(extensions=(Parameter("X-FlowTap-Order", "2026/17"), end))
    # Not even a REFRESH makes it longer, and the order is on record.
    scene.refresh(50, cdest_id="cd1", timeouts=Timeouts(total_s=3600))
    assert [each.reason for each in scene.expire(60)] == ["order"]
    records = [json.loads(row.text) for row in scene.store.audit_rows()]
    begun = next(each for each in records if each["event"] == "start")
    assert ["order", "2026/17"] in begun["detail"]
    scene.store.close()


def test_no_step_of_the_wall_clock_makes_anything_longer(scene: Scene) -> None:
    scene.added(static=False, timeouts=Timeouts(total_s=60))
    end = Parameter("X-FlowTap-Order-End", "2026-03-02T10:01:00Z")
    scene.added(extensions=(end,))
    back = Now(now(-86_400).wall, now(60).monotonic_ns)
    assert len(scene.control.tick(back)) == 2
    assert scene.running == ()


def test_a_control_source_that_loses_its_right_copies_no_more(scene: Scene) -> None:
    scene.added()
    kept = scene.added("md2")
    remaining = replace(policy(), control_sources={"md2": ControlSource("md2")})
    scene.control.apply_policy(remaining, now(1))
    assert scene.running == (kept,)
    assert scene.data_plane.installed[-1] == (kept,)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.store.close()
