"""Real traffic above the limits of a content destination, and copies that no network takes; told over real datagrams."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon import CAPTURE, KEY, OWN_KEY, V7, Tap, end, start, write_configuration

from flowtap.cli.local import ask
from flowtap.dtcp import Key, ListRequest, Reply
from flowtap.dtcp.reply import parse_reply
from flowtap.service.auditlog import read_audit_log

pytestmark = pytest.mark.interop

SOURCE = f'files = ["{CAPTURE}"]\npace = 200\nloop = true'
CONFIGURATION = """
[policy]
duplicates_dropped_period_s = 1
[content_destination.narrow]
address = "127.0.0.1"
port = 9
source_address = "127.0.0.1"
soft_limit_clear_bps = 5000
soft_limit_bps = 10000
hard_limit_target_bps = 20000
hard_limit_bps = 60000
[content_destination.wide]
address = "127.0.0.1"
port = 9
source_address = "127.0.0.1"
"""
ADD = "ADD DTCP/0.7\nCdest-ID: {}\nFlags: Static"
NOWHERE = ADD.format("nowhere") + (
    "\nX-JTap-Cdest-Dest-Address: 255.255.255.255\nX-JTap-Cdest-Dest-Port: 9\n"
    "X-JTap-Cdest-Source-Address: 127.0.0.1\nX-JTap-Cdest-Source-Port: 40021"
)


class Mailbox:
    """The address that one control source has notifications sent to."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(15)

    @property
    def line(self) -> str:
        return f'notification_targets = ["127.0.0.1:{self.socket.getsockname()[1]}"]\n'

    def take(self, code: int) -> dict[str, str]:
        """The next notification, which must have this code."""
        reply: Reply = parse_reply(self.socket.recv(65_536), self.key)
        assert reply.code == code
        return {each.name: each.value for each in reply.parameters}

    def is_empty(self) -> bool:
        self.socket.settimeout(0.1)
        try:
            self.socket.recv(65_536)
        except TimeoutError:
            return True
        return False


@pytest.fixture
def boxes() -> Iterator[tuple[Mailbox, Mailbox]]:
    made = Mailbox(KEY), Mailbox(OWN_KEY)
    yield made
    for box in made:
        box.socket.close()


@pytest.fixture
def tap(tmp_path: Path, boxes: tuple[Mailbox, Mailbox]) -> Iterator[Tap]:
    write_configuration(tmp_path, SOURCE, CONFIGURATION)
    path = tmp_path / "flowtap.toml"
    text = path.read_text()
    for name, box in zip(("md", "md2"), boxes, strict=True):
        text = text.replace(f"[control_source.{name}]\n", f"[control_source.{name}]\n{box.line}")
    path.write_text(text)
    running = start(tmp_path)
    yield running
    end(running)


def add(tap: Tap, *wanted: tuple[str, str]) -> None:
    """Adds criteria: of whom, and as what."""

    async def task() -> None:
        for at, (login, text) in enumerate(wanted, start=1):
            async with tap.client(login, KEY if login == "md" else OWN_KEY) as client:
                assert (await client.request_written(text, str(at))).value("Criteria-ID") == str(at)

    asyncio.run(task())


@pytest.mark.ledger("T-102", "T-154", "T-155", "T-156", "T-157")
def test_above_the_limits(tap: Tap, boxes: tuple[Mailbox, Mailbox]) -> None:
    """Everything goes to a narrow destination: both are warned, then the newest criteria end, until it is enough."""
    add(tap, ("md", ADD.format("narrow")), ("md2", ADD.format("narrow")), ("md2", ADD.format("wide")))
    for box in boxes:
        warned = box.take(580)
        assert int(warned.pop("Average-Bandwidth")) > 10_000
        del warned["Timestamp"]
        assert warned == {"Cdest-ID": "narrow", "Alert-Bandwidth": "10000", "Max-Bandwidth": "60000"}
    purged = boxes[1].take(680)
    assert (purged["Cdest-ID"], purged["Criteria-ID"]) == ("narrow", "2")
    purged = boxes[0].take(680)
    assert (purged["Cdest-ID"], purged["Criteria-ID"]) == ("narrow", "1")
    assert all(box.is_empty() for box in boxes)
    # What was purged copies no more, the criterion to the other destination does.
    assert [each["id"] for each in ask(tap.socket, "stats")["criteria"]] == [3]
    records = [json.loads(row.text) for row in read_audit_log(tap.directory / "flowtap.db")]
    stops = {
        each["criteria_id"]: dict(each["detail"])["reason"] for each in records if each["event"] == "stop"
    }
    assert stops == {1: "congestion of narrow", 2: "congestion of narrow"}


@pytest.mark.ledger("T-158", "T-159")
def test_copies_that_no_network_takes(tap: Tap, boxes: tuple[Mailbox, Mailbox]) -> None:
    """A socket may not send to everybody: such copies are lost, their owner is told again and again, nobody else is."""
    add(tap, ("md2", NOWHERE), ("md", ADD.format("wide")))
    told = [boxes[1].take(598) for _ in range(3)]
    for each in told:
        assert (each["Cdest-ID"], each["Criteria-ID"]) == ("nowhere", "1")
        assert 0 < int(each["X-Dropped-Packets"]) < int(each["X-Dropped-Bytes"])
    assert boxes[0].is_empty()
    times = [each["Timestamp"] for each in told]
    assert times == sorted(set(times))
    # Each says what has come on top: together it is no more than was lost.
    lost = next(
        each["dropped"]
        for each in ask(tap.socket, "stats")["content_destinations"]
        if each["id"] == "nowhere"
    )
    assert sum(int(each["X-Dropped-Packets"]) for each in told) <= lost


@pytest.mark.ledger("T-102")
def test_a_static_criterion_stays(tap: Tap) -> None:
    """Through ticks, the end of its session and a restart, until somebody deletes it."""
    add(tap, ("md", ADD.format("wide")))
    time.sleep(2.2)
    tap.process.kill()
    tap.process.wait()
    (tap.directory / "log").unlink()
    again = start(tap.directory)
    try:

        async def look() -> None:
            async with again.client() as client:
                (entry,) = (await client.request(ListRequest(V7, "md", "1"))).entries
                assert {each.name: each.value for each in entry}["FLAGS"] == "Static"
                deleted = await client.request_written("DELETE DTCP/0.7\nCriteria-ID: 1\nFlags: Static", "2")
                assert deleted.value("Criteria-Count") == "1"

        asyncio.run(look())
    finally:
        end(again)
    tap.process = again.process
