from __future__ import annotations

import stat
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from local_socket import CHILD, IKE, TUNNEL

from flowtap.config.tunnels import TunnelSection
from flowtap.delivery.states import TAKEN_DOWN
from flowtap.diagnosis import files, probes, running
from flowtap.diagnosis.echo import _checksum, _message
from flowtap.diagnosis.files import FileState
from flowtap.diagnosis.finding import Unknown, Verdict

NOW = datetime.fromisoformat(str(TUNNEL["since"]))
UNREAD = Unknown("the tap does not run")
VALUES: dict[str, Any] = {
    "local_gateway": "100.100.100.100",
    "remote_gateway": "123.123.123.123",
    "local_networks": ["100.100.100.101/32"],
    "remote_networks": ["2.2.2.0/27"],
    "pre_shared_key_file": "psk",
}
LEGACY = TunnelSection.model_validate({**VALUES, "legacy": True, "ike_version": 1})
GCM = {"encryption": "AES_GCM_16", "integrity": None}
NEW_IKE = {**IKE, **GCM, "version": 2, "prf": "PRF_HMAC_SHA2_384", "dh_group": "ECP_384"}
MODERN = {**TUNNEL, "ike": [NEW_IKE], "ipsec": [{**CHILD, **GCM}]}


def test_what_nobody_has_looked_at_is_never_well() -> None:
    section = TunnelSection.model_validate(VALUES)
    found = [
        running.tunnel_state("ttp", UNREAD, NOW),
        *running.guard("ttp", UNREAD),
        *running.guard_rules(UNREAD),
        *running.negotiated("ttp", section, UNREAD),
        *running.negotiated("ttp", section, {**TUNNEL, "ipsec": []}),
        running.exclusion(UNREAD),
        running.exclusion({"name": "flowtap"}),
    ]
    assert {each.verdict for each in found} == {Verdict.UNKNOWN}


@pytest.mark.parametrize(
    ("state", "age_s", "verdict"),
    [
        ("up", 1_000, "ok"),
        ("suspect", 1_000, "warn"),
        ("connecting", 9, "warn"),
        # Such as one with another secret than the other side has.
        ("connecting", 11, "fail"),
        ("down", 1, "fail"),
        ("blocked", 1, "fail"),
    ],
)
def test_states(state: str, age_s: int, verdict: str) -> None:
    since = (NOW - timedelta(seconds=age_s)).isoformat(timespec="seconds")
    assert running.tunnel_state("ttp", {**TUNNEL, "state": state, "since": since}, NOW).verdict == verdict


def test_what_was_taken_down_here_is_brought_up_here() -> None:
    taken = running.tunnel_state("ttp", {**TUNNEL, "state": "down", "reason": TAKEN_DOWN}, NOW)
    assert (taken.verdict, taken.advice) == (Verdict.FAIL, "flowtap tunnel up ttp")
    lost = running.tunnel_state("ttp", {**TUNNEL, "state": "down"}, NOW)
    assert "strongSwan's log" in lost.advice


@pytest.mark.parametrize(
    ("tunnel", "fault"),
    [
        (MODERN, ""),
        ({**MODERN, "ipsec": [{**CHILD, **GCM, "state": "REKEYING"}]}, ""),
        ({**MODERN, "ipsec": [{**CHILD, **GCM, "local": ["0.0.0.0/0"], "remote": ["2.2.2.0/24"]}]}, ""),
        ({**MODERN, "ipsec": [{**CHILD, **GCM, "remote": ["2.2.2.0/28", "2.2.2.16/28"]}]}, ""),
        ({**MODERN, "ipsec": [{**CHILD, **GCM, "remote": ["2.2.2.0..2.2.2.31"]}]}, ""),
        ({**MODERN, "ipsec": [{**CHILD, **GCM, "remote": ["2.2.2.1..2.2.2.31"]}]}, "remote_networks"),
        ({**MODERN, "ipsec": [{**CHILD, **GCM, "remote": ["2.2.2.0/28"]}]}, "remote_networks: 2.2.2.0/27"),
        ({**MODERN, "ipsec": [{**CHILD, **GCM, "remote": ["2.2.2.0/27[udp/9]"]}]}, "remote_networks"),
        ({**MODERN, "ipsec": [{**CHILD, **GCM, "local": ["2001:db8::/32"]}]}, "local_networks"),
        ({**MODERN, "ipsec": [{**CHILD, **GCM, "mode": "TRANSPORT"}]}, "ESP in mode transport"),
        ({**MODERN, "ipsec": [{**CHILD, **GCM, "protocol": "AH"}]}, "AH in mode tunnel"),
        ({**MODERN, "ipsec": [{**CHILD, "encryption": "NULL"}]}, "nothing is encrypted"),
        ({**MODERN, "ipsec": [CHILD]}, "3DES_CBC is no longer recommended"),
        ({**MODERN, "ike": [IKE]}, "MODP_1024 is no longer recommended"),
        ({**MODERN, "ike": [{**NEW_IKE, "prf": "PRF_HMAC_SHA1"}]}, "PRF_HMAC_SHA1 is no longer"),
    ],
)
def test_what_was_negotiated(tunnel: dict[str, Any], fault: str) -> None:
    found = running.negotiated("ttp", TunnelSection.model_validate(VALUES), tunnel)
    if fault:
        assert any(fault in each.what for each in found), found
        assert {each.verdict for each in found} == {Verdict.FAIL}
    else:
        assert [each.verdict for each in found] == [Verdict.OK]


def test_what_is_weak_is_right_where_it_was_asked_for() -> None:
    assert [each.verdict for each in running.negotiated("ttp", LEGACY, TUNNEL)] == [Verdict.OK]
    null = {**TUNNEL, "ipsec": [{**CHILD, "encryption": "NULL"}]}
    assert [each.verdict for each in running.negotiated("ttp", LEGACY, null)] == [Verdict.FAIL]


def test_rights() -> None:
    own = ["CAP_NET_RAW"]
    found = running.rights(UNREAD, own, is_live=True, has_tunnels=True)
    assert [each.verdict for each in found] == [Verdict.OK, Verdict.WARN, Verdict.FAIL]
    found = running.rights(UNREAD, [], is_live=False, has_tunnels=False)
    assert {each.verdict for each in found} == {Verdict.WARN}
    # The running tap's own, whatever he has who asks.
    (first, *_) = running.rights({"broker_rights": []}, own, is_live=True, has_tunnels=False)
    assert first.what.startswith("the running tap's broker has no CAP_NET_RAW")


def test_the_tap_itself() -> None:
    assert running.tap(UNREAD).verdict is Verdict.WARN
    assert running.tap({"name": "a", "error": "a worker has died"}).verdict is Verdict.FAIL
    assert running.tap({"name": "a", "error": None}).verdict is Verdict.OK
    assert running.exclusion({"exclusion": "proven"}).verdict is Verdict.OK
    assert running.exclusion({"exclusion": "IKE was matched"}).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("mode", "secret", "plain", "directory"),
    [
        (0o600, "ok", "ok", "ok"),
        (0o400, "ok", "ok", "ok"),
        (0o640, "fail", "ok", "warn"),
        (0o604, "fail", "ok", "warn"),
        (0o620, "fail", "fail", "fail"),
        (0o666, "fail", "fail", "fail"),
    ],
)
def test_modes(mode: int, secret: str, plain: str, directory: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    path.chmod(mode)
    state = probes.file_state(path)
    assert isinstance(state, FileState)
    assert stat.S_IMODE(state.mode) == mode
    assert files.private("key", path, state).verdict == secret
    assert files.trusted("key", path, state).verdict == plain
    assert files.folder(path, state).verdict == directory


def test_files_that_are_not_there_or_empty(tmp_path: Path) -> None:
    path = tmp_path / "file"
    missing = probes.file_state(path)
    assert files.private("key", path, missing).verdict is Verdict.FAIL
    assert files.trusted("key", path, missing).verdict is Verdict.FAIL
    assert files.folder(path, missing).verdict is Verdict.UNKNOWN
    path.touch(mode=0o600)
    assert "is empty" in files.private("key", path, probes.file_state(path)).what


def test_the_checksum_of_an_echo() -> None:
    """Over a message with its checksum in place it is zero [RFC 1071]."""
    message = _message(8, 0xBEEF, 7, b"12345678")
    assert len(message) == 64
    assert _checksum(message) == 0
