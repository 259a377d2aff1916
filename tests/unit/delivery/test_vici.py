"""The client against a daemon that answers what no strongSwan would: nothing hangs, and everything is said.

What a real one answers is tested with real ones, in tests/netns/test_tunnel.py.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vici.protocol import Message, Packet

from flowtap.delivery.vici import (
    QUEUED_MAX,
    QUEUED_OCTETS_MAX,
    SEGMENT_OCTETS,
    DaemonGoneError,
    RefusedError,
    Vici,
    _read,
)
from flowtap.errors import TunnelError

pytestmark = pytest.mark.asyncio
Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


def segment(octets: bytes) -> bytes:
    return struct.pack("!I", len(octets)) + octets


def answer(**values: Any) -> bytes:
    return segment(bytes([Packet.CMD_RESPONSE]) + Message.serialize(values))


def event(name: bytes, **values: Any) -> bytes:
    return segment(bytes([Packet.EVENT, len(name)]) + name + Message.serialize(values))


CONFIRMED = segment(bytes([Packet.EVENT_CONFIRM]))


async def take(reader: asyncio.StreamReader) -> bytes:
    (length,) = struct.unpack("!I", await reader.readexactly(4))
    return await reader.readexactly(length)


@asynccontextmanager
async def daemon(directory: Path, peer: Peer) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await peer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    path = str(directory / "vici")
    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield path


def says(*octets: bytes) -> Peer:
    """Answers each message with the next of these, and then waits."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for each in octets:
            await take(reader)
            writer.write(each)
        await reader.read()

    return peer


async def test_an_answer_becomes_text(tmp_path: Path) -> None:
    peer = says(answer(version="5.9.8", conns=["a", "b"], deep={"er": {"x": "1"}}))
    async with daemon(tmp_path, peer) as path, Vici.connect(path) as vici:
        reply = await vici.request("version")
    assert reply.message == {"version": "5.9.8", "conns": ["a", "b"], "deep": {"er": {"x": "1"}}}
    assert reply.streamed == []


async def test_a_streamed_answer(tmp_path: Path) -> None:
    peer = says(CONFIRMED, event(b"list-sa", one={}) + event(b"list-sa", two={}) + answer(), CONFIRMED)
    async with daemon(tmp_path, peer) as path, Vici.connect(path) as vici:
        reply = await vici.request("list-sas", {"ike": "md"}, stream="list-sa")
    assert reply.streamed == [{"one": {}}, {"two": {}}]


async def test_a_refusal_has_what_was_said_before(tmp_path: Path) -> None:
    peer = says(
        CONFIRMED,
        event(b"control-log", msg="no") + answer(success="no", errmsg="establishing failed"),
        CONFIRMED,
    )
    async with daemon(tmp_path, peer) as path, Vici.connect(path) as vici:
        with pytest.raises(RefusedError, match="initiate: establishing failed") as refused:
            await vici.request("initiate", stream="control-log")
    assert refused.value.streamed == [{"msg": "no"}]


async def test_who_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DaemonGoneError, match=r"cannot be reached at .*: No such file"):
        async with Vici.connect(str(tmp_path / "vici")):
            pass


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"", "closed the connection"),
        (b"\0\0", "closed the connection"),
        (segment(b"\x01" + b"\x03\x01a\x00\x05abc")[:-2], "closed the connection"),
        (struct.pack("!I", 0), "a message of 0 octets"),
        (struct.pack("!I", SEGMENT_OCTETS + 1), f"a message of {SEGMENT_OCTETS + 1} octets"),
        (segment(b"\x09"), "message of kind 9"),
        (segment(b"\x01\x03"), "cannot be understood"),
        (segment(b"\x01\x03\x01a\x00\x05abc"), "cannot be understood"),
        (segment(b"\x01\x02"), "cannot be understood"),
        (segment(b"\x01\x01\x01a"), "cannot be understood"),
        (segment(b"\x01\x63"), "cannot be understood"),
        (segment(b"\x01\x03\x01\xff\x00\x00"), "cannot be understood"),
        (segment(b"\x01\x04\x01a\x05\x00\x01x"), "cannot be understood"),
        (segment(b"\x01" + b"\x01\x00" * 100_000 + b"\x02" * 100_000), "cannot be understood"),
        (answer() + answer(), "though nothing was asked|closed"),
    ],
)
async def test_what_is_no_answer_ends_the_connection(tmp_path: Path, octets: bytes, reason: str) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take(reader)
        writer.write(octets)
        await writer.drain()

    async with daemon(tmp_path, peer) as path, Vici.connect(path) as vici:
        with pytest.raises(DaemonGoneError, match=reason):
            for _ in range(2):
                await vici.request("version", timeout_s=5)
        with pytest.raises(DaemonGoneError):
            await vici.request("version")


async def test_a_command_that_is_not_known(tmp_path: Path) -> None:
    async with (
        daemon(tmp_path, says(segment(bytes([Packet.CMD_UNKNOWN])))) as path,
        Vici.connect(path) as vici,
    ):
        with pytest.raises(RefusedError, match="does not know"):
            await vici.request("dance")


async def test_events_that_are_not_known(tmp_path: Path) -> None:
    async with (
        daemon(tmp_path, says(segment(bytes([Packet.EVENT_UNKNOWN])))) as path,
        Vici.connect(path) as vici,
    ):
        with pytest.raises(RefusedError, match="no events of the kind alert"):
            async with vici.events("alert"):
                pass


async def test_no_answer_in_time_ends_the_connection(tmp_path: Path) -> None:
    async with daemon(tmp_path, says()) as path, Vici.connect(path) as vici:
        with pytest.raises(DaemonGoneError, match=r"version: no answer from strongSwan within 0\.05 s"):
            await vici.request("version", timeout_s=0.05)
        # A late answer is never taken for that to another command.
        with pytest.raises(DaemonGoneError, match="no answer"):
            await vici.request("stats")


async def test_who_gives_up_waiting_ends_the_connection(tmp_path: Path) -> None:
    async with daemon(tmp_path, says()) as path, Vici.connect(path) as vici:
        waiting = asyncio.create_task(vici.request("version"))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(DaemonGoneError, match="given up"):
            await vici.request("stats")


async def test_commands_wait_for_each_other(tmp_path: Path) -> None:
    peer = says(*(answer(number=str(number)) for number in range(20)))
    async with daemon(tmp_path, peer) as path, Vici.connect(path) as vici:
        replies = await asyncio.gather(*(vici.request("stats") for _ in range(20)))
    assert [each.message for each in replies] == [{"number": str(number)} for number in range(20)]


async def test_who_listens_is_told_of_the_end(tmp_path: Path) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take(reader)
        writer.write(CONFIRMED + event(b"ike-updown", up="yes") + event(b"another"))

    async with daemon(tmp_path, peer) as path, Vici.connect(path) as vici, vici.events("ike-updown") as heard:
        assert await heard.wait(5) == [("ike-updown", {"up": "yes"})]
        for _ in range(2):
            with pytest.raises(DaemonGoneError, match="closed the connection"):
                await heard.wait(5)


async def test_nothing_is_heard_in_time(tmp_path: Path) -> None:
    async with (
        daemon(tmp_path, says(CONFIRMED, CONFIRMED)) as path,
        Vici.connect(path) as vici,
        vici.events("ike-updown") as heard,
    ):
        assert await heard.wait(0.02) == []


async def test_events_that_nobody_reads_are_bounded(tmp_path: Path) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await take(reader)
            writer.write(CONFIRMED)
        for number in range(QUEUED_MAX + 10):
            writer.write(event(b"log", number=str(number)))
        writer.write(event(b"ike-updown", last="yes"))
        await writer.drain()
        await take(reader)
        for _ in range(QUEUED_MAX + 1):
            writer.write(event(b"ike-updown"))
        await writer.drain()
        await reader.read()

    async with daemon(tmp_path, peer) as path, Vici.connect(path) as vici:
        with pytest.raises(DaemonGoneError, match="events of strongSwan wait"):
            async with vici.events("ike-updown", "log", lossy=frozenset({"log"})) as heard:
                taken = await heard.wait(20)
                # What nobody waits for came with what somebody does, and lost its oldest.
                assert len(taken) == QUEUED_MAX
                assert taken[-1] == ("ike-updown", {"last": "yes"})
                assert taken[-2] == ("log", {"number": str(QUEUED_MAX + 9)})
                await vici.request("version")


async def test_octets_that_nobody_reads_are_bounded(tmp_path: Path) -> None:
    """An answer of long parts would fill the memory long before there are too many of them."""
    part = event(b"list-sa", much=["x" * 60_000] * 8)

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take(reader)
        writer.write(CONFIRMED)
        await take(reader)
        for _ in range(40):
            writer.write(part)
            await writer.drain()
        writer.write(answer(success="yes"))

    async with daemon(tmp_path, peer) as path, Vici.connect(path) as vici:
        with pytest.raises(DaemonGoneError, match=f"{QUEUED_OCTETS_MAX} octets"):
            await vici.request("list-sas", stream="list-sa")


async def test_a_refusal_is_one_line(tmp_path: Path) -> None:
    refusal = answer(success="no", errmsg="first\n2026-01-01 second\x1b[2J " + "x" * 1000)
    async with daemon(tmp_path, says(refusal)) as path, Vici.connect(path) as vici:
        with pytest.raises(RefusedError) as caught:
            await vici.request("load-conn")
    assert str(caught.value).startswith("load-conn: first 2026-01-01 second")
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


async def test_what_is_too_long_is_not_sent(tmp_path: Path) -> None:
    async with daemon(tmp_path, says(answer())) as path, Vici.connect(path) as vici:
        with pytest.raises(RefusedError, match="too long"):
            await vici.request("load-shared", {"data": b"x" * 65_536})
        with pytest.raises(RefusedError, match="too long"):
            await vici.request("load-shared", {"x" * 256: "y"})
        with pytest.raises(RefusedError, match=f"more than {SEGMENT_OCTETS} octets"):
            await vici.request("load-conn", {"certs": [b"x" * 65_535] * 9})
        # Nothing was lost by it.
        assert (await vici.request("version")).message == {}


TREES = st.recursive(
    st.text(max_size=5) | st.lists(st.text(max_size=5), max_size=3),
    lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.dictionaries(st.text(max_size=5), TREES, max_size=4))
async def test_every_tree_is_read_as_it_was_written(tree: dict[str, Any]) -> None:
    assert _read(Message.serialize(tree)) == tree


@given(st.dictionaries(st.text(max_size=5), TREES, max_size=4), st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
async def test_damaged_octets_are_read_or_refused(tree: dict[str, Any], data: st.DataObject) -> None:
    octets = bytearray(Message.serialize(tree))
    for _ in range(data.draw(st.integers(0, 3))):
        if octets:
            octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(octets[: data.draw(st.integers(0, len(octets)))])
    with suppress(TunnelError):
        _read(cut)
