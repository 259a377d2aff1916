"""Budgets in a tap that is killed: a crash may shorten an intercept, it never lengthens one."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemon import CAPTURE, Tap, end, start, write_configuration

from flowtap.cli.local import ask
from flowtap.service.usage import read_usage

pytestmark = pytest.mark.interop

BUDGET = 1_500
SOURCE = f'files = ["{CAPTURE}"]\npace = 1500\nloop = true'
ADD = (
    "ADD DTCP/0.7\nCdest-ID: cd1\nX-JTap-Cdest-Dest-Address: 127.0.0.1\nX-JTap-Cdest-Dest-Port: {port}\n"
    "X-JTap-Cdest-Source-Address: 127.0.0.1\nX-JTap-Cdest-Source-Port: 40001\n{ends}"
)


def task(tap: Tap, *asked: tuple[int, str]) -> None:
    async def add() -> None:
        async with tap.client() as client:
            for at, (port, ends) in enumerate(asked, start=1):
                reply = await client.request_written(ADD.format(port=port, ends=ends), str(at))
                assert reply.code == 200, reply

    asyncio.run(add())


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as arrival:
        arrival.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        arrival.bind(("127.0.0.1", 0))
        arrival.setblocking(False)
        yield arrival


def arrived(arrival: socket.socket) -> int:
    count = 0
    while True:
        try:
            arrival.recv(4096)
        except BlockingIOError:
            return count
        count += 1


def running(tap: Tap) -> int:
    return len(ask(tap.socket, "intercepts")["intercepts"])


def test_a_budget_of_packets_over_many_kills(tmp_path: Path) -> None:
    write_configuration(tmp_path, SOURCE)
    usage_file = tmp_path / "flowtap.db-usage"
    seen: list[int] = []
    total = 0
    with listening() as limited, listening() as unlimited:
        tap = start(tmp_path)
        ports = limited.getsockname()[1], unlimited.getsockname()[1]
        task(tap, (ports[0], f"Timeout-Packets: {BUDGET}"), (ports[1], "Flags: STATIC"))
        for pause_s in (0.02, 0.05, 0.01, 0.04):
            time.sleep(pause_s)
            tap.process.kill()
            tap.process.wait()
            usage = read_usage(usage_file)
            total += arrived(limited)
            # What was sent had been written down before.
            assert total <= usage.counts[1].packets <= BUDGET
            assert not usage.is_final
            seen.append(usage.counts[1].packets)
            tap = start(tmp_path)
        deadline = time.monotonic() + 20
        # The other one's count misses what a run that was killed had not written down yet.
        while running(tap) > 1 or read_usage(usage_file).counts[2].packets <= BUDGET:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        end(tap)
        total += arrived(limited)
        assert arrived(unlimited) > BUDGET
    assert seen == sorted(seen)
    assert len(set(seen)) > 1
    usage = read_usage(usage_file)
    # A run that began with nothing left of it has no record of it.
    assert (usage.counts[1].packets if 1 in usage.counts else seen[-1]) == BUDGET
    # Copies that waited for their turn when the tap was killed were counted, and never came.
    assert BUDGET // 2 < total <= BUDGET
    assert re.search(r"criteria 1 of md ended: .*packets", tap.log), tap.log
    # In order this time: the counts are final, and those of the other criterion go on over all runs.
    assert usage.is_final
    assert usage.counts[2].packets > BUDGET
