"""The client against a network that loses things: a real tap, and relays in between that drop what they are told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import pytest
from daemon import FOR_EVER, KEY, OWN_KEY, V7, Tap, end, running, start, write_configuration

from flowtap import dtcp
from flowtap.dtcp import (
    AddRequest,
    DeleteRequest,
    FilterText,
    IdRange,
    ListEntry,
    ListResult,
    NoopRequest,
    Parameter,
    RefreshRequest,
    Timeouts,
)
from flowtap.dtcp.render import render_datagrams, render_notification
from flowtap.dtcp.reply import parse_reply
from flowtap.mediation import (
    Client,
    NoAnswerError,
    Notifications,
    RefusedError,
    SequenceNumbers,
    TaskingError,
)
from flowtap.mediation.client import _is_same

pytestmark = pytest.mark.interop

DELIVERY = tuple(
    Parameter(f"X-JTap-Cdest-{name}", value)
    for name, value in (
        ("Dest-Address", "127.0.0.1"),
        ("Dest-Port", "9"),
        ("Source-Address", "127.0.0.1"),
        ("Source-Port", "40005"),
    )
)


def add(source: str = "192.0.2.1", **fields: Any) -> AddRequest:
    values: dict[str, Any] = {"filter": FilterText(source=source), "static": True, "extensions": DELIVERY}
    return AddRequest(V7, "", "", ("cd1",), **(values | fields))


def by_id(number: int) -> DeleteRequest:
    return DeleteRequest(V7, "", "", criteria_ids=(IdRange(number, number, single=True),), static=True)


class UdpRelay:
    """Passes datagrams on, but for those that it is told to lose: by their number, each way counted for itself."""

    def __init__(self, port: int) -> None:
        self.lose_requests: set[int] = set()
        self.lose_replies: set[int] = set()
        self.requests: list[bytes] = []
        self._tap = ("127.0.0.1", port)
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self._back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._client: tuple[str, int] | None = None
        self._replies = 0
        self._closed = False
        # Closing a socket wakes nobody who waits for it.
        for each in (self._front, self._back):
            each.settimeout(0.1)
        self._threads = [threading.Thread(target=run) for run in (self._forth, self._home)]
        for thread in self._threads:
            thread.start()

    @property
    def port(self) -> int:
        return int(self._front.getsockname()[1])

    def _forth(self) -> None:
        while not self._closed:
            with contextlib.suppress(TimeoutError):
                data, self._client = self._front.recvfrom(65_536)
                self.requests.append(data)
                if len(self.requests) not in self.lose_requests:
                    self._back.sendto(data, self._tap)

    def _home(self) -> None:
        while not self._closed:
            with contextlib.suppress(TimeoutError):
                # The first send gives the socket its port.
                data = self._back.recv(65_536)
                self._replies += 1
                if self._replies not in self.lose_replies and self._client is not None:
                    self._front.sendto(data, self._client)

    def close(self) -> None:
        self._closed = True
        for thread in self._threads:
            thread.join()
        self._front.close()
        self._back.close()


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    udp = '[dtcp.udp]\nlisten = ["127.0.0.1:0"]'
    with running(tmp_path, FOR_EVER, udp) as tap:
        yield tap


@pytest.fixture
def relay(tap: Tap) -> Iterator[UdpRelay]:
    from flowtap.cli.local import ask  # noqa: PLC0415 - beside its one use

    made = UdpRelay(int(ask(tap.socket, "status")["udp"][0].rpartition(":")[2]))
    made._back.bind(("127.0.0.1", 0))
    yield made
    made.close()


def udp_client(relay: UdpRelay, directory: Path, attempts: int = 3) -> Client:
    numbers = SequenceNumbers(directory / "numbers")
    return Client.over_udp(
        "127.0.0.1", relay.port, user="md2", key=OWN_KEY, numbers=numbers, timeout_s=0.4, attempts=attempts
    )


@pytest.mark.ledger("T-006", "T-008")
def test_every_method(relay: UdpRelay, tmp_path: Path) -> None:
    assert dtcp.Client is Client

    async def all_of_them() -> None:
        async with udp_client(relay, tmp_path) as client:
            await client.noop(NoopRequest(V7, "", ""))
            first = await client.add(add())
            second = await client.add(add("192.0.2.2", static=False, timeouts=Timeouts(total_s=60)))
            listed = await client.list()
            assert [each["criteria-id"] for each in listed] == [str(first), str(second)]
            assert [each["source-address"] for each in listed] == ["192.0.2.1", "192.0.2.2"]
            refresh = RefreshRequest(
                V7, "", "", Timeouts(total_s=90), criteria_ids=(IdRange(0, 99, single=False),)
            )
            assert await client.refresh(refresh) == 2
            assert await client.delete(by_id(first)) == 1
            with pytest.raises(RefusedError, match="431 Unknown Criteria ID: no such criteria") as caught:
                await client.delete(by_id(first))
            assert caught.value.reply.value("criteria-id") == str(first)
            with pytest.raises(RefusedError, match="432"):
                await client.add(add("192.0.2.1/33"))

    asyncio.run(all_of_them())


@pytest.mark.ledger("T-048")
@pytest.mark.parametrize("way", ["request", "reply"])
def test_an_add_is_carried_out_once_whichever_way_was_lost(relay: UdpRelay, tmp_path: Path, way: str) -> None:
    async def add_two() -> None:
        async with udp_client(relay, tmp_path) as client:
            first = await client.add(add())
            lose = relay.lose_requests if way == "request" else relay.lose_replies
            lose.add(2)
            # The same once more: what it may be taken for is known to be another one.
            second = await client.add(add())
            assert second != first
            listed = await client.list()
            assert [each["criteria-id"] for each in listed] == [str(first), str(second)]

    asyncio.run(add_two())
    methods = [request.split()[0].decode() for request in relay.requests]
    again = ["ADD"] if way == "request" else []
    assert methods == ["ADD", "ADD", "LIST", *again, "LIST"]
    # Never the same number twice.
    numbers = [request.split(b"Seq: ")[1].split(b"\r")[0] for request in relay.requests]
    assert numbers == [str(at).encode() for at in range(1, len(numbers) + 1)]


def test_a_delete_whose_answer_was_lost_is_done(relay: UdpRelay, tmp_path: Path) -> None:
    async def once() -> None:
        async with udp_client(relay, tmp_path) as client:
            first = await client.add(add())
            relay.lose_replies.add(2)
            reply = await client.send(by_id(first))
            assert reply.is_success
            assert await client.list() == []

    asyncio.run(once())


@pytest.mark.ledger("T-141", "T-143")
def test_a_list_is_believed_when_all_of_it_is_there(relay: UdpRelay, tmp_path: Path) -> None:
    async def ask() -> None:
        async with udp_client(relay, tmp_path, attempts=1) as client:
            for _ in range(12):
                await client.add(add())
            # One of the parts that follow is lost.
            relay.lose_replies.add(14)
            with pytest.raises(NoAnswerError):
                await client.list()
            assert len(await client.list()) == 12

    asyncio.run(ask())


@pytest.mark.ledger("T-141", "T-143", "T-145")
def test_parts_of_a_list_come_in_any_order_and_among_other_things(tmp_path: Path) -> None:
    """One entry a part, the last one first, slowly, between datagrams that are not for us."""
    entries = [entry(number) for number in range(1, 6)]
    response = dtcp.Response(V7, "1", now := datetime(2026, 3, 2), ListResult(tuple(entries)))  # noqa: DTZ001 - as the protocol
    parts = render_datagrams(response, OWN_KEY, 100)
    assert len(parts) == 5
    others = [
        b"rubbish",
        render_datagrams(response, KEY, 100)[0],
        render_datagrams(replace(response, seq="7"), OWN_KEY, 100)[0],
        render_notification(dtcp.Notification(V7, dtcp.Status.NOOP_NOTIFICATION, now), OWN_KEY),
    ]

    async def ask() -> list[str]:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            server.setblocking(False)

            async def answer() -> None:
                _, peer = await loop.sock_recvfrom(server, 65_536)
                for part in [*others, *reversed(parts), parts[0]]:
                    await asyncio.sleep(0.02)
                    await loop.sock_sendto(server, part, peer)

            answering = asyncio.create_task(answer())
            numbers = SequenceNumbers(tmp_path / "numbers")
            port = server.getsockname()[1]
            async with Client.over_udp("127.0.0.1", port, user="md2", key=OWN_KEY, numbers=numbers) as client:
                listed = await client.list()
            await answering
        return [each["criteria-id"] for each in listed]

    assert asyncio.run(ask()) == ["1", "2", "3", "4", "5"]


def entry(number: int) -> ListEntry:
    return ListEntry("md2", ip_address("127.0.0.1"), ("cd1",), number, datetime(2026, 3, 2), static=True)  # noqa: DTZ001 - as the protocol


@pytest.mark.ledger("T-167")
def test_a_client_needs_no_extension(relay: UdpRelay, tmp_path: Path) -> None:
    """A server may discard every X- parameter and send none: what the client does stays the same."""
    stripped = FilterText(source="192.0.2.1")

    async def ask() -> None:
        async with udp_client(relay, tmp_path) as client:
            first = await client.add(add())
            (listed,) = await client.list()
            plain = {name: value for name, value in listed.items() if not name.startswith("x-")}
            assert plain != listed
            # It finds its criteria again in an answer without them, and reads errors without them.
            assert _is_same(plain, add())
            assert not _is_same(plain, add("192.0.2.2"))
            assert await client.ensure([add()]) == (first,)
            assert _is_same(plain, AddRequest(V7, "", "", ("cd1",), stripped, static=True))

    asyncio.run(ask())
    bare = dtcp.Response(V7, "1", datetime(2026, 3, 2), dtcp.ErrorResult(dtcp.Status.BAD_REQUEST))  # noqa: DTZ001 - as the protocol
    (refusal,) = render_datagrams(bare, OWN_KEY, 1400)
    assert str(RefusedError(parse_reply(refusal, OWN_KEY))) == "400 Bad Request"


def test_what_is_never_answered_is_given_up(relay: UdpRelay, tmp_path: Path) -> None:
    relay.lose_requests |= set(range(1, 100))

    async def ask() -> None:
        async with udp_client(relay, tmp_path, attempts=2) as client:
            with pytest.raises(NoAnswerError, match="check Csource-ID, key and sequence number"):
                await client.noop(NoopRequest(V7, "", ""))
            with pytest.raises(NoAnswerError):
                await client.add(add())

    asyncio.run(ask())
    # What may have arrived is looked for before it is sent again; without an answer to that nothing is.
    assert [request.split()[0] for request in relay.requests] == [b"NOOP", b"NOOP", b"ADD", b"LIST"]


@pytest.mark.ledger("T-048", "T-056")
def test_numbers_go_on_where_they_were(relay: UdpRelay, tmp_path: Path) -> None:
    for _ in range(2):

        async def ask() -> None:
            async with udp_client(relay, tmp_path) as client:
                await client.noop(NoopRequest(V7, "", ""))

        asyncio.run(ask())
    assert (tmp_path / "numbers").read_text() == "2\n"


class TcpRelay:
    """Passes octets on, and cuts every connection behind so many octets from the tap, once."""

    def __init__(self, port: int) -> None:
        self.cut: Callable[[], bool] = lambda: False
        self._port = port
        self._connections: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.close()

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._connections += [writer, back_writer]

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, from_tap: bool) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65_536):
                    if from_tap and self.cut():
                        break
                    sink.write(data)
                    await sink.drain()
            for each in (writer, back_writer):
                each.close()

        await asyncio.gather(
            pump(reader, back_writer, from_tap=False), pump(back_reader, writer, from_tap=True)
        )


def test_a_connection_that_is_cut_before_the_answer(tap: Tap) -> None:
    """The ADD has arrived, its answer has not: the client logs in again, and finds what it has added."""

    async def cut_and_go_on() -> None:
        async with TcpRelay(tap.port) as relay:
            public = (tap.directory / "host_key.pub").read_text()
            (tap.directory / "relay_hosts").write_text(f"[127.0.0.1]:{relay.port} {public}")
            client = Client.over_ssh(
                "127.0.0.1",
                relay.port,
                user="md",
                password="right",
                known_hosts=tap.directory / "relay_hosts",
            )
            async with client:
                first = await client.add(add())
                cuts = iter([True])
                relay.cut = lambda: next(cuts, False)
                second = await client.add(add("192.0.2.2"))
                assert (first, second) == (1, 2)
                assert [each["source-address"] for each in await client.list()] == ["192.0.2.1", "192.0.2.2"]

    asyncio.run(cut_and_go_on())


def test_a_late_answer_is_nobody_s(tap: Tap) -> None:
    """Over SSH answers are told apart by their numbers as well."""

    async def late() -> None:
        async with tap.client() as client:
            assert client._writer is not None
            client._writer.write(dtcp_message("7"))
            reply = await client.exchange(dtcp_message("8"), "8")
            assert reply.seq == "8"

    asyncio.run(late())


def dtcp_message(seq: str) -> bytes:
    from flowtap.dtcp.render import render_request  # noqa: PLC0415 - beside its one use

    return render_request(NoopRequest(V7, "md", seq), KEY)


@pytest.mark.ledger("T-103")
def test_what_is_missing_is_added_again(relay: UdpRelay, tmp_path: Path) -> None:
    wanted = [add(), add("192.0.2.2"), add(), add("192.0.2.3", static=False, timeouts=Timeouts(total_s=60))]

    async def ensure() -> None:
        async with udp_client(relay, tmp_path) as client:
            ids = await client.ensure(wanted)
            assert ids == (1, 2, 3, 4)
            assert await client.ensure(wanted) == ids
            await client.delete(by_id(3))
            assert await client.ensure(wanted) == (1, 2, 5, 4)
            # Of two that look the same one is there.
            assert await client.ensure([*wanted, add()]) == (1, 2, 5, 4, 6)

    asyncio.run(ensure())


@pytest.mark.ledger("T-020")
def test_notifications_are_received(tmp_path: Path) -> None:
    async def hear() -> None:
        async with Notifications("127.0.0.1", 0, key=OWN_KEY) as notifications:
            host, port = notifications.address
            udp = '[dtcp.udp]\nlisten = ["127.0.0.1:0"]\n[content_destination.x]\naddress = "192.0.2.9"\nport = 9\nsource_address = "192.0.2.1"'
            write_configuration(tmp_path, FOR_EVER, udp)
            text = (tmp_path / "flowtap.toml").read_text()
            line = f'key_file = "own.key"\nnotification_targets = ["{host}:{port}"]'
            (tmp_path / "flowtap.toml").write_text(text.replace('key_file = "own.key"', line))
            running = await asyncio.to_thread(start, tmp_path)
            try:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
                    noise.sendto(b"no notification", (host, port))
                async with running.client("md2", OWN_KEY) as client:
                    await client.request(NoopRequest(V7, "md2", "1", send_async=True))
                async with asyncio.timeout(5):
                    async for each in notifications:
                        assert (each.code, each.reason) == (131, "NoOp Notification")
                        break
            finally:
                await asyncio.to_thread(end, running)

    asyncio.run(hear())


def test_an_address_that_cannot_be_listened_at() -> None:
    async def listen() -> None:
        async with Notifications("192.0.2.1", 1, key=OWN_KEY):
            pytest.fail("was opened")

    with pytest.raises(TaskingError, match=r"192\.0\.2\.1 port 1: "):
        asyncio.run(listen())


def test_a_tap_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def connect() -> None:
        async with Client.over_ssh("127.0.0.1", port, user="md", password="x", known_hosts=tmp_path / "none"):
            pytest.fail("was opened")

    with pytest.raises(TaskingError, match=f"127.0.0.1 port {port}"):
        asyncio.run(connect())


def test_the_module_has_no_other_lazy_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        dtcp.Server  # noqa: B018 - that it raises is the test


def test_importing_the_protocol_imports_no_client() -> None:
    import sys  # noqa: PLC0415 - for the interpreter's own path

    words = "import sys, flowtap.dtcp; print(sorted({'asyncio', 'asyncssh'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
