"""Who gets in over SSH, and with what."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
from daemon import FOR_EVER, Tap, end, start, write_configuration

pytestmark = pytest.mark.interop


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    write_configuration(tmp_path, FOR_EVER)
    running = start(tmp_path)
    yield running
    end(running)
    assert running.process.returncode == 0
    assert "Traceback" not in running.log


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
