"""No more is copied for a control source than it may have, and it is told."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest
from daemon import ADD, CAPTURE, Tap, end, running, start, write_configuration

from flowtap.cli.local import ask

pytestmark = pytest.mark.interop

SOURCE = f'files = ["{CAPTURE}"]\npace = 2000\nloop = true'


def stats(tap: Tap) -> dict[str, int]:
    return {key: value for key, value in ask(tap.socket, "stats").items() if isinstance(value, int)}


def test_a_rate_for_criteria_that_had_none(tmp_path: Path) -> None:
    with running(tmp_path, SOURCE) as tap:

        async def add() -> None:
            async with tap.client() as client:
                assert (await client.request_written(ADD.format(at=10, port=9), "1")).code == 200

        asyncio.run(add())
        tap.reload("[control_source.md]\n", "[control_source.md]\nmax_packets_per_s = 1\n")
        time.sleep(0.3)
        begins = stats(tap)
        time.sleep(1)
        ends = stats(tap)
        assert ends["copied"] - begins["copied"] <= 2
        assert ends["refused"] > begins["refused"]


def test_a_rate_is_kept_and_changed_while_the_tap_runs(tmp_path: Path) -> None:
    write_configuration(tmp_path, SOURCE)
    path = tmp_path / "flowtap.toml"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as notified:
        notified.bind(("127.0.0.1", 0))
        notified.settimeout(15)
        target = f'notification_targets = ["127.0.0.1:{notified.getsockname()[1]}"]\nmax_packets_per_s = 50\n'
        path.write_text(path.read_text().replace("[control_source.md]\n", f"[control_source.md]\n{target}"))
        tap = start(tmp_path)
        try:

            async def add() -> None:
                async with tap.client() as client:
                    for at in (10, 20):
                        assert (await client.request_written(ADD.format(at=at, port=9), str(at))).code == 200

            asyncio.run(add())
            begins = stats(tap)
            began = time.monotonic()
            time.sleep(2)
            ends = stats(tap)
            seconds = time.monotonic() - began
            copied = ends["copied"] - begins["copied"]
            assert copied <= 50 * (seconds + 0.3)
            assert copied >= 50
            assert ends["refused"] > begins["refused"]
            assert ends["wanted"] == ends["copied"] + ends["refused"]
            assert b"598 Duplicate Packets Dropped" in notified.recv(2048)
            tap.reload("max_packets_per_s = 50", "max_packets_per_s = 0")
            begins = stats(tap)
            time.sleep(0.5)
            ends = stats(tap)
            assert ends["copied"] > begins["copied"]
            assert ends["refused"] == begins["refused"]
            tap.reload("max_packets_per_s = 0", "max_packets_per_s = 0\nmax_bits_per_s = 1")
            begins = stats(tap)
            time.sleep(0.5)
            assert stats(tap)["copied"] <= begins["copied"] + 1
        finally:
            end(tap)
