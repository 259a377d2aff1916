"""Fifty control sources at once, and every account equal to what each of them knows."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from daemon import FOR_EVER, KEY, V7, Tap, end, start, write_configuration

from flowtap.cli.local import ask
from flowtap.control import verify
from flowtap.dtcp import (
    AddRequest,
    DeleteRequest,
    FilterText,
    IdRange,
    ListRequest,
    Parameter,
    RefreshRequest,
    Timeouts,
)
from flowtap.mediation import Client
from flowtap.service.auditlog import read_audit_log

pytestmark = pytest.mark.interop

SOURCES = 50
SECONDS = 60 if os.environ.get("HYPOTHESIS_PROFILE") == "slow" else 10
DELIVERY = tuple(
    Parameter(f"X-JTap-Cdest-{name}", value)
    for name, value in (
        ("Dest-Address", "127.0.0.1"),
        ("Dest-Port", "9"),
        ("Source-Address", "127.0.0.1"),
        ("Source-Port", "40009"),
    )
)


class Model:
    """What one control source knows of its own."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.random = random.Random(seed)  # noqa: S311 - repeatable, no secret
        self.criteria: dict[int, tuple[str, bool]] = {}
        """Source address and whether it is static, by id."""
        self.counts: Counter[str] = Counter()

    async def task(self, client: Client, until: float) -> None:
        while time.monotonic() < until:
            await self.random.choice([self.add, self.add, self.add, self.refresh, self.list, self.delete])(
                client
            )

    async def add(self, client: Client) -> None:
        source = f"198.51.100.{self.random.randrange(1, 250)}"
        is_static = self.random.random() < 0.5
        times = Timeouts() if is_static else Timeouts(total_s=3600)
        if self.random.random() < 0.1:
            source = "198.51.100.0/33"
        request = AddRequest(
            V7, "", "", ("cd1",), FilterText(source=source), times, static=is_static, extensions=DELIVERY
        )
        reply = await client.send(request)
        self.counts["control_protocol_add_requests"] += 1
        if source.endswith("/33"):
            assert reply.code == 432
            self.counts["criteria_addition_failed"] += 1
            return
        assert reply.code == 200, reply
        number = int(reply.value("Criteria-ID") or 0)
        assert number not in self.criteria
        self.criteria[number] = (source, is_static)
        self.counts["criteria_added"] += 1

    async def refresh(self, client: Client) -> None:
        everything = (IdRange(0, 2**64 - 1, single=False),)
        count = await client.refresh(
            RefreshRequest(V7, "", "", Timeouts(total_s=3600), criteria_ids=everything)
        )
        assert count == len(self.criteria)
        self.counts["control_protocol_refresh_requests"] += 1
        self.counts["criteria_refreshed"] += count

    async def list(self, client: Client) -> None:
        listed = await client.list(ListRequest(V7, "", "", stats=self.random.random() < 0.5))
        self.counts["control_protocol_list_requests"] += 1
        self.counts["list_success"] += 1
        found = {
            int(each["criteria-id"]): (each["source-address"], each.get("flags") == "Static")
            for each in listed
        }
        assert found == self.criteria
        assert {each["csource-id"] for each in listed} <= {self.name}

    async def delete(self, client: Client) -> None:
        self.counts["control_protocol_delete_requests"] += 1
        if not self.criteria or self.random.random() < 0.1:
            # Somebody else's, or nobody's.
            number = self.random.randrange(1, 5000)
            if number in self.criteria:
                number = 4_000_000_000
            ids = (IdRange(number, number, single=True),)
            reply = await client.send(DeleteRequest(V7, "", "", criteria_ids=ids, static=True))
            assert reply.code == 431
            self.counts["criteria_deletion_failed"] += 1
            return
        first = self.random.choice(sorted(self.criteria))
        last = first + self.random.choice([0, 0, 100])
        static = self.random.random() < 0.8
        ids = (IdRange(first, last, single=first == last),)
        gone = [
            number
            for number, (_, is_static) in self.criteria.items()
            if first <= number <= last and (static or not is_static)
        ]
        count = await client.delete(DeleteRequest(V7, "", "", criteria_ids=ids, static=static))
        assert count == len(gone)
        for number in gone:
            del self.criteria[number]
        self.counts["criteria_deleted"] += count


def sources() -> str:
    text = ["[dtcp.udp]", "listen = []"]
    for at in range(SOURCES):
        text += [
            f"[login.user.s{at}]",
            'class = "tasker"',
            'authorized_keys_file = "id.pub"',
            f"[control_source.s{at}]",
        ]
    return "\n".join(text)


async def all_of_them(tap: Tap, models: list[Model]) -> None:
    until = time.monotonic() + SECONDS

    async def one(model: Model) -> None:
        client = Client.over_ssh(
            "127.0.0.1",
            tap.port,
            user=model.name,
            key=KEY,
            identity=tap.directory / "id",
            known_hosts=tap.directory / "known_hosts",
            timeout_s=20,
        )
        async with client:
            await model.task(client, until)
            await model.list(client)

    async with asyncio.TaskGroup() as group:
        for at, model in enumerate(models):
            # Fifty logins at once are more than may be waiting from one address.
            await asyncio.sleep(0.01 if at % 8 else 0.3)
            group.create_task(one(model))


@pytest.mark.ledger("T-001")
@pytest.mark.timeout(SECONDS + 60)
def test_fifty_control_sources(tmp_path: Path) -> None:
    write_configuration(tmp_path, FOR_EVER, sources())
    tap = start(tmp_path)
    models = [Model(f"s{at}", at) for at in range(SOURCES)]
    try:
        asyncio.run(all_of_them(tap, models))
        shown = {
            each["control_source"]: each for each in ask(tap.socket, "control-sources")["control_sources"]
        }
        for model in models:
            account = shown[model.name]
            assert {name: account[name] for name in model.counts} == dict(model.counts), model.name
            assert account["static_criteria_active"] == sum(each[1] for each in model.criteria.values())
            active = account["static_criteria_active"] + account["dynamic_criteria_active"]
            assert active == len(model.criteria)
        everything = sorted(number for model in models for number in model.criteria)
        assert [each["criteria_id"] for each in ask(tap.socket, "intercepts")["intercepts"]] == everything
        assert [each["id"] for each in ask(tap.socket, "stats")["criteria"]] == everything
    finally:
        end(tap)
    assert tap.process.returncode == 0
    assert "Traceback" not in tap.log
    assert verify(read_audit_log(tmp_path / "flowtap.db")) > sum(
        model.counts["criteria_added"] for model in models
    )
    assert sum(sum(model.counts.values()) for model in models) > 500
