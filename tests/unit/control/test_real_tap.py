"""The control plane with the store, the data plane and the clock that the daemon has."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from scene import DELIVERY, OTHER_DELIVERY, V7, principal

from flowtap import FilterTable, Tap
from flowtap._flowtap import UsageFile
from flowtap.control import (
    ContentDestination,
    ControlPlane,
    ControlSource,
    Ended,
    Policy,
    Tasked,
    verify,
)
from flowtap.delivery.paths import Paths
from flowtap.dtcp import AddRequest, AddResult, FilterText, ListRequest, ListResult, Timeouts
from flowtap.service import clock
from flowtap.service.dataplane import TapDataPlane
from flowtap.service.filters import FilterReader
from flowtap.service.places import Places
from flowtap.service.store import SqlStore

PLACES = Places([])
CAPTURE = Path(__file__).parents[2] / "captures" / "dns.pcap"


@pytest.mark.ledger("T-090")
def test_counters_time_outs_and_the_table_of_a_running_tap(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "s.db")
    tap = Tap.replay([str(CAPTURE)], FilterTable.compile([]), pace="fast", wait_for_criteria=1, export=False)
    data_plane = TapDataPlane(tap, PLACES, UsageFile(str(tmp_path / "s.db-usage"), bytes(16)), Paths({}, {}))
    control = ControlPlane(
        policy=Policy({"md": ControlSource("md")}, {"cd1": ContentDestination("cd1", DELIVERY)}),
        store=store,
        data_plane=data_plane,
        filters=FilterReader(PLACES),
    )

    def add(filter_text: FilterText, timeouts: Timeouts, *, static: bool = False) -> Tasked:
        request = AddRequest(V7, "md", "1", ("cd1",), filter_text, timeouts, static=static)
        return Tasked(principal(), request)

    with tap:
        tap.start()
        results = control.handle_all(
            [
                add(FilterText(), Timeouts(), static=True),
                add(FilterText(protocol="17", destination_port="53"), Timeouts(idle_s=3600)),
                add(FilterText(), Timeouts(packets=2)),
            ],
            clock.now(),
        )
        assert results == [AddResult(1), AddResult(2), AddResult(3)]
        while not tap.finished:
            time.sleep(0.01)
        request = ListRequest(V7, "md", "1", stats=True)
        listed = control.handle(principal(), request, clock.now())
        assert isinstance(listed, ListResult)
        everything, queries, two = listed.entries
        assert everything.matching_packets == tap.stats().frames
        assert everything.matching_packets is not None
        assert queries.matching_packets is not None
        assert 0 < queries.matching_packets < everything.matching_packets
        # The last match lies on the control plane's clock: idle has barely begun.
        assert queries.remaining is not None
        assert queries.remaining.idle_s is not None
        assert 3590 <= queries.remaining.idle_s <= 3600
        assert two.remaining == Timeouts(packets=0)
        ended = [each for each in control.tick(clock.now()) if isinstance(each, Ended)]
        assert [(each.intercept.criteria_id, each.reason) for each in ended] == [(3, "packets")]
        assert [each.id for each in tap.stats().criteria] == [1, 2]
        # One name may stand for several deliveries, each with its own outer header.
        moved = AddRequest(
            V7, "md", "1", ("own",), FilterText(), Timeouts(), static=True, deliveries=(OTHER_DELIVERY,)
        )
        assert control.handle(principal(), moved, clock.now()) == AddResult(4)
    assert [row.criteria_id for row in store.running()] == [1, 2, 4]
    assert verify(store.audit_rows()) == 5
    store.close()
