"""A tunnel that is kept up over VICI: real daemons, real IKE and ESP, and a gate that says what is done with it."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from net import HERE, PYTHON, until
from topology import Ipsec, Profile, ipsec, needs_root

pytestmark = [*needs_root(), pytest.mark.timeout(120)]
__all__ = ["ipsec"]


class Keeper:
    """The process that keeps the tunnel up, and what it has said."""

    def __init__(self, ipsec: Ipsec, section: dict[str, Any]) -> None:
        self.faults = ipsec.directory / "faults"
        if not self.faults.exists():
            self.faults.write_text("")
        job = {"section": section, "directory": str(ipsec.directory), "faults": str(self.faults)}
        self.errors = ipsec.directory / "keeper.log"
        with self.errors.open("a") as errors:
            self._process = ipsec.net.start(
                ipsec.operator,
                *(PYTHON, str(HERE / "keeper.py"), json.dumps(job)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.said: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(json.loads(line))

    @property
    def is_open(self) -> bool:
        gates = [each["gate"] for each in self.said if "gate" in each]
        return bool(gates) and gates[-1] == "open"

    @property
    def state(self) -> str:
        states = [each["state"] for each in self.said if "state" in each]
        return str(states[-1]) if states else ""

    @property
    def reason(self) -> str:
        reasons = [each["reason"] for each in self.said if "reason" in each]
        return str(reasons[-1]) if reasons else ""

    def shuts(self) -> list[float]:
        """What was in doubt, each time that the gate was shut."""
        return [each["in_doubt_s"] for each in self.said if each.get("gate") == "shut"]

    def order(self, words: str) -> dict[str, Any]:
        """Has it do something; what came of it."""
        before = len(self.said)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()

        def answers() -> list[dict[str, Any]]:
            return [each for each in self.said[before:] if "done" in each or "failed" in each]

        until(f"{words} is answered", answers, 20)
        return answers()[0]

    def until(self, what: str, true: Callable[[], bool], seconds: float = 20) -> None:
        try:
            until(what, true, seconds)
        except AssertionError:
            raise AssertionError(f"{what}: {self.said[-8:]} {self.errors.read_text()[-2000:]}") from None

    def until_open(self, seconds: float = 20) -> None:
        self.until("the gate is open", lambda: self.is_open and self.state == "up", seconds)

    def end(self) -> int:
        """Ends it; how it has ended."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self._process.stdin.close()
        code = self._process.wait(timeout=20)
        self._thread.join(timeout=10)
        return code


@pytest.fixture
def keep(ipsec: Ipsec) -> Iterator[Callable[..., Keeper]]:
    """Begins to keep a tunnel up."""
    keepers: list[Keeper] = []

    def begin(profile: Profile = "modern", **changes: Any) -> Keeper:
        keepers.append(Keeper(ipsec, ipsec.section(profile, **changes)))
        return keepers[-1]

    yield begin
    for each in keepers:
        each.end()
        assert "Traceback" not in each.errors.read_text(), each.errors.read_text()


Keep = Callable[..., Keeper]


@pytest.mark.parametrize("profile", ["how_to", "modern", "certificate"])
def test_it_comes_up_and_only_esp_is_seen(ipsec: Ipsec, keep: Keep, profile: Profile) -> None:
    ipsec.load_peer(profile)
    observer = ipsec.observer()
    began = time.monotonic()
    keeper = keep(profile)
    keeper.until_open()
    assert time.monotonic() - began < 10
    assert ipsec.passes()
    assert observer.in_clear() == []
    assert len(observer.protected()) >= 6
    assert ("is legacy" in keeper.errors.read_text()) == (profile == "how_to")
