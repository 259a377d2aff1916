"""Tunnels are shown as the how-to's router showed them: its words, in its order."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from local_socket import CHILD, DOWN, IKE, TUNNEL, answering

from flowtap.cli.associations import ike_lines, ipsec_lines, tunnel_lines
from flowtap.cli.main import run

IKE_TABLE = """
Remote Address   State    Initiator cookie  Responder cookie  Exchange type
123.123.123.123  Matured  2d79657b04657b2f  9a5223ce9a529048  Main
"""
IPSEC_TABLE = """
Service set: IPSEC-TTP-Company-1, IKE Routing-instance: default
Rule: To-TTP-Company, Term: 1, Tunnel index: 1
Local gateway: 100.100.100.100, Remote gateway: 123.123.123.123
IPSec inside interface: sp-0/3/0.1, Tunnel MTU: 1500
Direction  SPI         AUX-SPI  Mode    Type     Protocol
inbound    4075957595  0        tunnel  dynamic  ESP
outbound   3306433064  0        tunnel  dynamic  ESP
"""


def cells(text: str) -> list[list[str]]:
    """The cells of each line that is not empty: what is two spaces apart or more."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("prefix", [[], ["services", "ipsec-vpn"]])
@pytest.mark.parametrize(("kind", "expected"), [("ike", IKE_TABLE), ("ipsec", IPSEC_TABLE)])
def test_as_on_the_router(
    prefix: list[str], kind: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(tmp_path / "s", {"security-associations": {"tunnels": [TUNNEL]}}) as path:
        words = ["show", *prefix, kind, "security-associations", "--socket", str(path)]
        assert run(words) == 0
        assert cells(capsys.readouterr().out) == cells(expected)
        assert run([*words, "brief"]) == 0
        assert cells(capsys.readouterr().out) == cells(expected)
        assert run([*words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"tunnels": [TUNNEL]}


@pytest.mark.parametrize(
    ("version", "state", "shown"),
    [
        (1, "ESTABLISHED", ["Matured", "Main"]),
        (2, "REKEYING", ["Matured", "IKEv2"]),
        (2, "CONNECTING", ["Not matured", "IKEv2"]),
        (3, "DELETING", ["Not matured", "version 3"]),
    ],
)
def test_states_and_exchanges(version: int, state: str, shown: list[str]) -> None:
    tunnel = {**TUNNEL, "ike": [{**IKE, "version": version, "state": state}]}
    row = cells("\n".join(ike_lines([tunnel])))[1]
    assert [row[1], row[4]] == shown


def test_in_detail() -> None:
    text = "\n".join(ike_lines([TUNNEL], detail=True))
    for expected in ("IKE peer 123.123.123.123", "renewed in 77000 seconds", ": MODP_1024", "3DES_CBC"):
        assert expected in text
    assert "no renewal planned" in "\n".join(
        ike_lines([{**TUNNEL, "ike": [{**IKE, "rekey_s": None}]}], detail=True)
    )
    text = "\n".join(ipsec_lines([TUNNEL], detail=True))
    for expected in (
        "Remote identity: 2.2.2.0/27",
        "UDP encapsulation: yes",
        "Output: 13 packets, 662 bytes",
    ):
        assert expected in text


def test_what_is_only_being_made() -> None:
    """strongSwan lists it with little in it."""
    ike = {**IKE, "state": "CONNECTING", "responder_spi": "", "established_s": None, "integrity": ""}
    child = {**CHILD, "state": "CREATED", "spi_in": "", "spi_out": "", "integrity": None}
    tunnel = {**TUNNEL, "ike": [ike], "ipsec": [child]}
    assert cells("\n".join(ike_lines([tunnel])))[1][1:] == ["Not matured", IKE["initiator_spi"], "-", "Main"]
    assert "  Lifetime: not established, renewed in 77000 seconds" in ike_lines([tunnel], detail=True)
    lines = ipsec_lines([tunnel], detail=True)
    assert "  Encryption: 3DES_CBC, Authentication: -" in lines
    assert lines[-1].split() == ["outbound", "-", "0", "tunnel", "dynamic", "ESP"]


def test_children_that_carry_nothing_any_more() -> None:
    """They are left out, but for those who want it in detail; so is the header above nothing."""
    tunnel = {**TUNNEL, "ipsec": [{**CHILD, "state": "DELETED"}]}
    assert ipsec_lines([tunnel]) == []
    assert "State: DELETED" in "\n".join(ipsec_lines([tunnel], detail=True))
    other = {**TUNNEL, "name": "third", "index": 3}
    lines = ipsec_lines([{**tunnel, "ipsec": [{**CHILD, "state": "REKEYING"}, CHILD]}, DOWN, other])
    assert sum(line.startswith("Service set") for line in lines) == 2
    assert [line.rpartition(" ")[2] for line in lines if "Tunnel index" in line] == ["1", "1", "3"]


NAMED = {**TUNNEL, "name": "ttp", "service_set": "Company", "rule": "To-Company", "term": "second"}


def test_the_names_that_a_router_had() -> None:
    """Two tunnels of one service set stand under one header."""
    lines = ipsec_lines([NAMED, {**NAMED, "index": 2, "term": "third"}, {**TUNNEL, "index": 3}])
    assert [line for line in lines if line.startswith("Service set")] == [
        "Service set: Company, IKE Routing-instance: default",
        "Service set: IPSEC-TTP-Company-1, IKE Routing-instance: default",
    ]
    assert [line for line in lines if "Rule" in line] == [
        "  Rule: To-Company, Term: second, Tunnel index: 1",
        "  Rule: To-Company, Term: third, Tunnel index: 2",
        "  Rule: To-TTP-Company, Term: 1, Tunnel index: 3",
    ]
    assert "  Service set: Company, State: Matured" in ike_lines([NAMED], detail=True)


@pytest.mark.parametrize("name", ["Company", "ttp"])
def test_a_tunnel_is_selected_by_either_name_and_keeps_its_index(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tunnels = [TUNNEL, {**NAMED, "index": 2}]
    with answering(tmp_path / "s", {"security-associations": {"tunnels": tunnels}}) as path:
        words = ["show", "ipsec", "security-associations", "service-set", name]
        assert run([*words, "--socket", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "Service set: Company," in shown
    assert "IPSEC-TTP-Company-1" not in shown
    assert "Tunnel index: 2" in shown


def test_what_has_no_interface() -> None:
    lines = ipsec_lines([{**TUNNEL, "interface": None, "mtu_octets": None}])
    assert "  IPSec inside interface: -, Tunnel MTU: -" in lines


def test_what_an_operator_looks_at_first() -> None:
    rows = cells("\n".join(tunnel_lines([TUNNEL, DOWN])))
    assert rows[0][:3] == ["tunnel", "state", "since"]
    assert rows[1] == [
        TUNNEL["name"],
        "up",
        TUNNEL["since"],
        "123.123.123.123",
        "3",
        "13",
        TUNNEL["reason"],
    ]
    assert rows[2][-1] == "the guard is not sound"
    assert rows[3] == ["other: guard: chain out: is missing"]


def test_a_tunnel_without_associations_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    views: dict[str, Any] = {"security-associations": {"tunnels": [TUNNEL, DOWN]}}
    with answering(tmp_path / "s", views) as path:
        for kind, table in (("ike", IKE_TABLE), ("ipsec", IPSEC_TABLE)):
            assert run(["show", kind, "security-associations", "--socket", str(path)]) == 0
            shown = capsys.readouterr()
            assert cells(shown.out) == cells(table)
            assert shown.err.startswith("other: blocked since ")
        words = ["show", "ike", "security-associations", "--socket", str(path), "--json"]
        assert run([*words, "123.123.123.124"]) == 0
        assert json.loads(capsys.readouterr().out) == {"tunnels": [DOWN]}
        assert run([*words, "192.0.2.1"]) == 1
        assert "nothing of that name" in capsys.readouterr().err
        words = ["show", "ipsec", "security-associations", "--socket", str(path), "--json"]
        assert run([*words, "service-set", "other"]) == 0
        assert json.loads(capsys.readouterr().out) == {"tunnels": [DOWN]}
        views["security-associations"] = {"tunnels": []}
        assert run(["show", "tunnels", "--socket", str(path)]) == 0
        assert "no tunnel" in capsys.readouterr().err
