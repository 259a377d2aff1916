"""Who gets in over SSH, and with what."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

import asyncssh
import pytest
from daemon import FOR_EVER, OWN_KEY, V7, Tap, end, running, start, write_configuration

from flowtap.dtcp import NoopRequest
from flowtap.mediation import TaskingError
from flowtap.service.logins import hash_password

pytestmark = pytest.mark.interop


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    with running(tmp_path, FOR_EVER) as tap:
        yield tap


async def connect(
    tap: Tap, user: str, client: type[asyncssh.SSHClient] = asyncssh.SSHClient, **options: object
) -> asyncssh.SSHClientConnection:
    """A connection of asyncssh's own, where a device of ours would be too well-behaved."""
    return await asyncssh.connect(
        "127.0.0.1",
        tap.port,
        username=user,
        client_factory=client,
        known_hosts=str(tap.directory / "known_hosts"),
        config=None,
        agent_path=None,
        **{"client_keys": None} | options,
    )


def test_the_key_of_one_user_is_not_that_of_the_next(tap: Tap) -> None:
    """A peer names a user who has keys, then, in the same connection, one who has none."""

    class Changing(asyncssh.SSHClient):
        def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
            self.connection = conn

        def public_key_auth_requested(self) -> asyncssh.SSHKey | None:
            if self.connection._username == "md2":
                return None
            self.connection._username = "md2"
            return asyncssh.read_private_key(str(tap.directory / "id"))

    async def log_in() -> None:
        with pytest.raises(asyncssh.PermissionDenied):
            await connect(tap, "md", Changing)
        # With its own name the key is right.
        async with await connect(tap, "md", client_keys=[str(tap.directory / "id")]):
            pass

    asyncio.run(log_in())
    assert "login md2" not in tap.log


def test_every_name_is_answered_alike(tap: Tap) -> None:
    """A user with keys, one without, and one who does not exist are offered the same ways to log in."""

    async def ways(user: str) -> list[str]:
        found = await asyncssh.get_server_auth_methods("127.0.0.1", tap.port, username=user, config=None)
        return list(found)

    assert {tuple(asyncio.run(ways(user))) for user in ("md", "md2", "nobody")} == {("publickey", "password")}


def test_nothing_is_compressed(tap: Tap) -> None:
    """A packet that unpacks to a thousand times its size would cost its peer nothing."""

    async def compression() -> None:
        async with await connect(
            tap, "md", password="right", compression_algs=["zlib@openssh.com", "none"]
        ) as connection:
            assert connection.get_extra_info("send_compression") == "none"

    asyncio.run(compression())


def test_channels_of_a_connection_are_few(tap: Tap) -> None:
    async def opened() -> None:
        async with await connect(tap, "md", password="right") as connection:
            channels = []

            async def more() -> int:
                done = await asyncio.gather(
                    *(connection.open_session(subsystem="flow-tap-dtcp", encoding=None) for _ in range(50)),
                    return_exceptions=True,
                )
                open_ones = [each for each in done if not isinstance(each, BaseException)]
                channels.extend(open_ones)
                return len(open_ones)

            assert await more() == 8
            writer = channels.pop()[0]
            writer.close()
            await writer.wait_closed()
            assert await more() == 1

    asyncio.run(opened())
    assert "login md from 127.0.0.1: more than 8 channels" in tap.log


@contextmanager
def limited(directory: Path, words: str) -> Iterator[Tap]:
    write_configuration(directory, FOR_EVER)
    path = directory / "flowtap.toml"
    path.write_text(path.read_text().replace("[dtcp.ssh]\n", f"[dtcp.ssh]\n{words}\n"))
    tap = start(directory)
    try:
        yield tap
    finally:
        end(tap)
    assert "Traceback" not in tap.log


def guessing() -> tuple[type[asyncssh.SSHClient], list[str]]:
    """A client that has one wrong password after another, and those that it was asked for."""
    asked: list[str] = []

    class Guessing(asyncssh.SSHClient):
        def password_auth_requested(self) -> str:
            asked.append(f"wrong {len(asked)}")
            return asked[-1]

    return Guessing, asked


def test_a_connection_may_try_three_passwords(tap: Tap) -> None:
    client, asked = guessing()
    with pytest.raises(asyncssh.PermissionDenied):
        asyncio.run(connect(tap, "md", client))
    assert len(asked) == tap.log.count("wrong password or user") == 3


def test_every_password_is_an_attempt(tmp_path: Path) -> None:
    client, asked = guessing()
    with limited(tmp_path, "rate_limit = 2") as tap:
        with pytest.raises(asyncssh.PermissionDenied):
            asyncio.run(connect(tap, "md", client))
        assert len(asked) == 3
        assert tap.log.count("wrong password or user") == 2


def test_one_login_leaves_a_place_for_the_others(tmp_path: Path) -> None:
    async def log_in(tap: Tap) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(tap.client())
            with pytest.raises(TaskingError, match="too many connections"):
                await stack.enter_async_context(tap.client())
            await stack.enter_async_context(tap.client("md2", OWN_KEY))

    with limited(tmp_path, "connection_limit = 5") as tap:
        asyncio.run(log_in(tap))
        assert "login md from 127.0.0.1 refused: connection_limit is reached" in tap.log


def change_password(directory: Path) -> None:
    (directory / "hash").write_text(hash_password("another"))


def change_keys(directory: Path) -> None:
    (directory / "id.pub").write_text((directory / "host_key.pub").read_text())


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        pytest.param(change_password, "pace = 50", "pace = 51", id="another password"),
        pytest.param(change_keys, "pace = 50", "pace = 51", id="other keys"),
        pytest.param(
            None,
            "[control_source.md]\n",
            '[control_source.md]\naddresses = ["203.0.113.0/24"]\n',
            id="comes from elsewhere",
        ),
        pytest.param(None, "[control_source.md]\n", "", id="no control source"),
    ],
)
def test_who_could_not_log_in_again_is_logged_out(
    tap: Tap, change: Callable[[Path], None] | None, before: str, after: str
) -> None:
    async def until_closed() -> None:
        async with tap.client() as client:
            if change is not None:
                change(tap.directory)
            await asyncio.to_thread(tap.reload, before, after)
            assert client._reader is not None
            async with asyncio.timeout(5):
                assert await client._reader.read(1) == b""

    asyncio.run(until_closed())


def test_who_has_not_changed_stays(tap: Tap) -> None:
    async def stay() -> None:
        async with tap.client() as client:
            await asyncio.to_thread(tap.reload, "pace = 50", "pace = 51")
            assert (await client.request(NoopRequest(V7, "md", "1"))).code == 200

    asyncio.run(stay())


def test_a_reload_has_numbers_checked(tap: Tap) -> None:
    """In sessions that are open already as well; and no longer when it is taken back."""

    async def numbers() -> None:
        strict = '[control_source.md]\nsequence = "strict"\n'
        async with tap.client(timeout_s=1) as client:
            assert (await client.request(NoopRequest(V7, "md", "5"))).code == 200
            await asyncio.to_thread(tap.reload, "[control_source.md]\n", strict)
            assert (await client.request(NoopRequest(V7, "md", "5"))).code == 200
            with pytest.raises(TaskingError):
                await client.request(NoopRequest(V7, "md", "5"))
            await asyncio.to_thread(tap.reload, strict, "[control_source.md]\n")
            assert (await client.request(NoopRequest(V7, "md", "5"))).code == 200

    asyncio.run(numbers())
    assert "498 " in tap.log


def test_as_many_descriptors_as_the_system_allows(tap: Tap) -> None:
    limits = Path(f"/proc/{tap.process.pid}/limits").read_text()
    soft, hard = limits.split("Max open files")[1].split()[:2]
    assert soft == hard


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x14" + b"\0" * 5, id="a key exchange that ends early"),
        pytest.param(
            b"\x14" + b"\0" * 16 + b"\0\0\0\2\xff\xfe" * 10 + b"\0" * 5, id="names that are not ASCII"
        ),
        pytest.param(b"", id="an empty packet"),
        pytest.param(b"\x02" + b"\xff" * 8, id="a length beyond the end"),
    ],
)
def test_packets_that_are_none_before_the_login(tap: Tap, payload: bytes) -> None:
    """The connection ends; the log has a line, and no traceback (the fixture looks)."""
    padding = 8 - (5 + len(payload)) % 8
    padding += 8 if padding < 4 else 0
    packet = struct.pack(">IB", len(payload) + padding + 1, padding) + payload + b"\0" * padding
    with socket.create_connection(("127.0.0.1", tap.port), timeout=5) as peer:
        peer.sendall(b"SSH-2.0-x\r\n" + packet)
        with suppress(ConnectionError):
            while peer.recv(4096):
                pass
    tap.until("no login from 127.0.0.1")


def test_a_login_without_a_control_source_stays_without(tmp_path: Path) -> None:
    """It may log in; what it asks for gets no answer, with a reason in the log."""

    async def ask(tap: Tap) -> None:
        async with tap.client(timeout_s=1) as client:
            with pytest.raises(TaskingError, match="no answer"):
                await client.request(NoopRequest(V7, "md", "1"))

    write_configuration(tmp_path, FOR_EVER)
    path = tmp_path / "flowtap.toml"
    path.write_text(path.read_text().replace("[control_source.md]\n", ""))
    tap = start(tmp_path)
    try:
        asyncio.run(ask(tap))
    finally:
        end(tap)
    assert "499 Unknown Control Source" in tap.log
