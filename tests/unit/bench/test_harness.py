"""The repository's own benchmark programs: what they put into their tables."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import export
import live
import pictures
import programs
import rules
from consume import WAYS
from flowtap import Criteria, FilterTable, PermissionMissingError, Replay
from flowtap.bench.namespaces import Network, missing_right
from flowtap.bench.traffic import Plan
from flowtap.cli.criteria import load_criteria
from row import Row, at_least, at_most

ROOT = Path(__file__).parents[3]
netns = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


def test_verdicts() -> None:
    assert at_least("a", 2, 2.0).verdict == "pass"
    assert at_least("a", 2, 1.99).verdict == "short"
    assert at_most("a", 2, 2.0, unit="s").verdict == "pass"
    assert at_most("a", 2, 2.01, unit="s").reached == "2.01 s"
    assert at_most("a", 2, 2.01).verdict == "short"
    assert Row("a", "something").verdict == "absent"
    assert Row("a", "reported", "7").verdict == ""


@pytest.mark.parametrize("name", rules.names())
def test_every_flow_matches_the_rule_that_it_is_drawn_from(name: str, tmp_path: Path) -> None:
    generator = random.Random(1)  # noqa: S311 - repeatable, no secret
    chosen = generator.sample(rules.rules(name), 200)
    traffic = [rule.flow(generator) for rule in chosen]
    (tmp_path / "criteria").write_text(rules.requests(chosen))
    table = load_criteria(str(tmp_path / "criteria")).table
    from captures import drawn  # noqa: PLC0415 - it makes a directory only when it is used

    drawn(traffic).write(tmp_path / "a.pcap", 20_000)
    stats = Replay([str(tmp_path / "a.pcap")], table).run().stats
    assert stats.matched == stats.frames == 20_000
    # Each of two hundred flows occurs among a hundred times as many frames.
    assert all(each.packets for each in stats.criteria)


def test_the_rule_sets_are_there() -> None:
    assert rules.names() == ["acl1_1000", "acl1_10000", "fw1_1000", "fw1_10000"]


def test_rules_about_a_network() -> None:
    about = [rule for rule in rules.rules("fw1_1000") if rule.is_about(rules.BENCHMARK_ADDRESSES)]
    assert about
    everything = FilterTable.compile([Criteria(1, source="0.0.0.0/0")])
    assert len(everything) == 1
    assert len(about) < len(rules.rules("fw1_1000"))


def test_every_way_finds_the_same(tmp_path: Path) -> None:
    plan = Plan(hosts=20, match_share=0.1)
    plan.traffic().write(tmp_path / "a.pcap", 2000)
    hosts = [plan.host(number) for number in range(plan.hosts)]
    found = {name: way(hosts)(str(tmp_path / "a.pcap")) for name, way in WAYS.items()}
    assert {frames for frames, _ in found.values()} <= {2000, None}
    (matched,) = {matched for _, matched in found.values()}
    assert matched > 150


def test_a_program_and_what_it_cost() -> None:
    code = "import time\nheld = bytearray(60 << 20)\ntime.sleep(0.3)\nprint('{\"a\": 1}')"
    done = programs.run([sys.executable, "-c", code], memory=True)
    assert done.json == {"a": 1}
    assert done.wall_s > 0.3
    assert 0 < done.cpu_s < done.wall_s
    assert 60 << 20 < done.peak_octets < 120 << 20


def test_a_program_that_fails() -> None:
    with pytest.raises(programs.ProgramError, match=r"exit status 3: .*: no luck"):
        programs.run([sys.executable, "-c", "import sys; sys.stderr.write('no luck'); sys.exit(3)"])


def test_a_program_that_does_not_end() -> None:
    with pytest.raises(programs.ProgramError, match="exit status -9"):
        programs.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.3)


def test_a_program_beside() -> None:
    code = "import time; print('ready', flush=True); time.sleep(60)"
    with programs.running([sys.executable, "-c", code], ready="ready") as beside:
        assert beside.process.poll() is None
    assert beside.process.returncode == -signal.SIGKILL
    with (
        pytest.raises(programs.ProgramError, match="did not say 'ready'"),
        programs.running([sys.executable, "-c", "print('no')"], ready="ready"),
    ):
        pass


def test_pictures(tmp_path: Path) -> None:
    each = {"mpps": 2.0}
    result = {
        "processors": 2,
        "processor": "some processor",
        "kernel": "Linux",
        "commit": "1234567",
        "date": "2030-01-01T00:00:00",
        "rows": [
            {"group": "hosts", "measured": {"flowtap, 1 host": each, "tcpdump, 1 host": each, "matched": {}}},
            {"group": "expressions", "measured": {"flowtap, 10 hosts": each}},
            {"group": "export", "measured": {"flowtap, equal": each, "sendmmsg, equal": each}},
            {"group": "control", "measured": {"adds_per_s": [1.0]}},
        ],
    }
    drawn = pictures.draw(result, tmp_path)
    assert [path.name for path in drawn] == ["hosts.svg", "export.svg"]
    assert "sendmmsg, equal" in (tmp_path / "export.svg").read_text()


def test_no_network_without_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionMissingError, match="need root"), Network():
        pass
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "")
    missing = missing_right()
    assert missing is not None
    assert "iproute2" in str(missing)


def namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines()}


@netns
def test_a_network_is_gone_afterwards() -> None:
    with pytest.raises(ZeroDivisionError), Network() as network:
        here, there = network.host(), network.host()
        assert {here.name, there.name} <= namespaces()
        network.cable(here, "a0", there, "b0")
        here.set_up("a0", "198.51.100.1/24")
        there.set_up("b0", "198.51.100.2/24")
        ping = ["ping", "-c", "1", "-W", "5", "198.51.100.2"] if Path("/bin/ping").exists() else ["true"]
        subprocess.run([*here.inside, *ping], check=True, capture_output=True)
        raise ZeroDivisionError
    assert not {here.name, there.name} & namespaces()


@netns
def test_frames_sent_arrive() -> None:
    with live.wire() as where:
        plan = Plan(match_share=0, length_octets=60)
        assert live.send(where, 5000, plan) > 0
        text = programs.run([*where.tap.inside, "ip", "-j", "-s", "link", "show", "b0"]).output
        received = json.loads(text)[0]["stats64"]["rx"]
        assert received["packets"] == 5000
        assert received["bytes"] == 5000 * 60


@netns
def test_a_tap_beside_the_sender() -> None:
    with live.wire() as where:
        plan = Plan(match_share=0, length_octets=60)
        sending = live.beside(where, live.others("ip")["tcpdump"], 2000, plan)
        assert sending.account == live.Account(2000, 0)
        nothing = live.beside(where, live.others(f"host {live.HOST}")["tcpdump"], 2000, plan)
        assert nothing.account == live.Account(0, 0)


@netns
def test_a_live_tap_accounts_for_every_frame() -> None:
    with live.wire() as where:
        plan = Plan(hosts=50, match_share=0.3, length_octets=200)
        delivery = (export.SINK, str(export.PORT), export.TAP, str(export.SOURCE_PORTS["udp"]))
        tap = live.flowtap("--hosts", "50", "--export", *delivery)
        wanted = live.matching(plan, 5000)
        assert 1200 < wanted < 1800
        sending = live.beside(where, tap, 5000, plan)
        assert sending.arrived == wanted
        live.check_export(sending, wanted)
        with pytest.raises(programs.ProgramError, match="1 are missing"):
            live.check_export(sending, wanted + 1)
        everything = live.beside(where, live.flowtap("--everything"), 5000, plan)
        assert everything.account is not None
        assert everything.account.got + everything.account.lost == 5000


def test_a_live_tap_says_what_is_wrong() -> None:
    words = [sys.executable, "-m", "flowtap.bench.live_tap", "no-such-link"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "flowtap.bench.live_tap: " in done.stderr


def test_the_sender_says_what_is_wrong() -> None:
    words = [sys.executable, "-m", "flowtap.bench.sender", "no-such-link", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no-such-link" in done.stderr
