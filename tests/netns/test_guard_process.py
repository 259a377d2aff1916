"""The process that owns the guard: what it keeps of its rights, what it says by itself, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import pytest
from net import PYTHON, until
from test_guard import DEVICE, PLANS, SPEAKER, Question, Scene, as_nobody, scene
from topology import needs_root

if TYPE_CHECKING:
    from flowtap.delivery.guard import GuardPlan

pytestmark = needs_root()
__all__ = ["scene"]

GUARD = """
import asyncio, json, sys
from flowtap.cli.local import ask
from flowtap.config import load
from flowtap.delivery.guard import GuardPlan
from flowtap.service.guard import Guard
guard = Guard(GuardPlan.from_json(sys.argv[1]))
print(json.dumps(guard._process.pid), flush=True)
async def main():
    loop = asyncio.get_running_loop()
    while word := await loop.run_in_executor(None, sys.stdin.readline):
        if word.strip() == "state":
            found = guard.state
        elif word.startswith("changed"):
            try:
                async with asyncio.timeout(3):
                    found = await guard.changed(int(word.split()[1]))
            except TimeoutError:
                found = None
        elif word.strip() == "cancelled":
            # Whoever asked has gone before the answer came.
            asking = asyncio.create_task(guard.install())
            await asyncio.sleep(0.001)
            asking.cancel()
            found = await guard.verify()
        else:
            found = await getattr(guard, word.strip())()
        print(json.dumps(found), flush=True)
asyncio.run(main())
guard.close()
"""


@pytest.mark.parametrize("before", [(), as_nobody("net_admin")], ids=["root", "nobody"])
def test_its_process_needs_one_right(scene: Scene, before: tuple[str, ...]) -> None:
    plan = PLANS["interface"]
    owner = ask_guard(scene, plan, *before)
    assert owner.answer("verify") != []
    assert owner.answer("install") == []
    assert owner.answer("verify") == []
    assert scene.netfilter("verify", plan) == []
    scene.nft("flush ruleset")
    assert owner.answer("verify") == ["nftables: there is no table inet flowtap_guard"]
    assert owner.answer("cancelled") == []
    status = Path(f"/proc/{owner.first}/status").read_text()
    held = {line.partition(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith("Cap")}
    del held["CapBnd"]
    assert set(held.values()) == {f"{1 << 12:016x}"}


def ask_guard(scene: Scene, plan: GuardPlan, *before: str) -> Question:
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return Question(scene.net.start(scene.host, *before, PYTHON, "-c", GUARD, plan.to_json(), **streams))


def test_without_the_right_it_says_which_is_missing(scene: Scene) -> None:
    plan = PLANS["interface"]
    assert scene.netfilter("install", plan) == []
    owner = ask_guard(scene, plan, *as_nobody())
    for word in ("verify", "install"):
        (fault,) = owner.answer(word)
        assert "needs the right CAP_NET_ADMIN" in fault
        assert "`flowtap guard install` as root" in fault
    assert owner.answer("state") == "running"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_guard_outlives_who_installed_it(scene: Scene, number: signal.Signals) -> None:
    plan = PLANS["interface"]
    owner = ask_guard(scene, plan)
    assert owner.answer("install") == []
    guard = int(owner.first)
    # Signals that are meant for the daemon are not for the guard's process.
    os.kill(guard, signal.SIGTERM)
    os.kill(guard, signal.SIGINT)
    assert owner.answer("verify") == []
    owner.process.send_signal(number)
    owner.process.wait(timeout=10)
    until("the guard's process ends", lambda: not Path(f"/proc/{guard}/status").exists())
    assert scene.netfilter("verify", plan) == []
    assert scene.send(("udp", SPEAKER, DEVICE)) != [[]]


def test_a_process_that_is_dead_is_a_fault(scene: Scene) -> None:
    owner = ask_guard(scene, PLANS["interface"])
    assert owner.answer("install") == []
    os.kill(int(owner.first), signal.SIGKILL)
    for word in ("verify", "install", "verify"):
        (fault,) = owner.answer(word)
        assert "the process that owns the guard has ended" in fault
    assert owner.answer("state") == "ended"
    assert scene.netfilter("verify", PLANS["interface"]) == []


@pytest.mark.parametrize("before", [(), as_nobody("net_admin")], ids=["root", "nobody"])
def test_it_says_at_once_what_others_change(scene: Scene, before: tuple[str, ...]) -> None:
    owner = ask_guard(scene, PLANS["interface"], *before)
    assert owner.answer("install") == []
    # What it has done itself is no news.
    assert owner.answer("changed 0") is None
    seen = 0
    for damage in (
        ("nft", "flush", "ruleset"),
        ("nft", "add", "table", "inet", "another"),
        ("ip", "rule", "delete", "pref", "221", "to", "2.2.2.0/27"),
        ("ip", "-6", "rule", "add", "pref", "100", "to", "2001:db8::/32", "lookup", "main"),
    ):
        scene.net.run(scene.host, *damage)
        began = monotonic()
        seen = owner.answer(f"changed {seen}")
        assert seen is not None, damage
        assert monotonic() - began < 1, damage
    while (more := owner.answer(f"changed {seen}")) is not None:
        seen = more
    assert owner.answer("install") == []
    assert owner.answer(f"changed {seen}") is None


def test_its_end_is_news(scene: Scene) -> None:
    owner = ask_guard(scene, PLANS["interface"])
    assert owner.answer("verify") != []
    os.kill(int(owner.first), signal.SIGKILL)
    assert owner.answer("changed 0") == 1
    (fault,) = owner.answer("verify")
    assert "has ended" in fault
