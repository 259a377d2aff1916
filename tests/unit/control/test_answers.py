"""Requests as text, answers as text, with the protocol and the decisions between them: every code and its culprit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scene import OTHER_DELIVERY, Scene, now, policy, principal

from flowtap.dtcp import (
    Dialect,
    Key,
    Limits,
    Rejected,
    Reply,
    RequestReceived,
    Response,
    Status,
    Timeouts,
    Version,
    read_request,
)
from flowtap.dtcp.render import render_datagrams, render_response, sign
from flowtap.dtcp.reply import parse_reply

KEY = Key(b"a key of its own")
DELIVERY = (
    "X-JTap-Cdest-Dest-Address: 198.51.100.8\nX-JTap-Cdest-Dest-Port: 30000\n"
    "X-JTap-Cdest-Source-Address: 198.51.100.1\nX-JTap-Cdest-Source-Port: 65534\n"
)
ADD = "ADD DTCP/0.7\nCdest-ID: cd1\n"


class Keys:
    def key_for(self, csource_id: str) -> Key | None:
        return KEY if csource_id in {"md", "md2"} else None


class Desk:
    """Reads requests as they come, has them served, and writes the answers."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def octets(self, text: str, login: str = "md", *, end: str = "", at: float = 0) -> bytes | None:
        """The answer, None for silence."""
        lines = f"{text.rstrip()}\nCsource-ID: {login}\nSeq: 0042{end}\n".replace("\n", "\r\n")
        event = read_request(sign(lines, KEY), Limits(), Keys())
        if isinstance(event, Rejected):
            return None
        moment = now(at)
        if isinstance(event, RequestReceived):
            result = self.scene.control.handle(principal(login), event.request, moment)
        else:
            result = event.error
        return render_response(Response(event.version, event.seq, moment.wall, result), Dialect.DRAFT, KEY)

    def ask(self, text: str, login: str = "md", **more: Any) -> Reply:
        octets = self.octets(text, login, **more)
        assert octets is not None
        return parse_reply(octets, KEY)


@pytest.fixture
def desk(scene: Scene) -> Desk:
    return Desk(scene)


@pytest.mark.ledger(
    "T-075",
    "T-093",
    "T-101",
    "T-109",
    "T-110",
    "T-119",
    "T-120",
    "T-160",
    "T-161",
    "T-163",
    "T-164",
    "T-165",
    "T-171",
    "T-173",
    "T-174",
    "T-190",
    "T-192",
    "T-195",
)
@pytest.mark.parametrize(
    ("text", "code", "culprit"),
    [
        # What cannot be read, is missing, or is out of its range, and for which there is nothing more specific.
        ("ADD", 400, {"x-error-line": "ADD"}),
        (f"{ADD}Flags: Static\nrubbish", 400, {"x-error-line": "rubbish"}),
        (f"{ADD}Flags: Static\nColour: red", 400, {"colour": "red"}),
        (f"{ADD}Flags: Static\nColour: bl\u2028\u00e9ue", 400, {"colour": "bl??ue"}),
        (f"{ADD}Flags: Static\nPriority: 300", 400, {"priority": "300"}),
        (f"{ADD}Flags: Static\nPriority: 1 2", 400, {"priority": "1 2"}),
        (f"{ADD}Flags: Static\nProtocol: 6 ,17", 400, {"protocol": "6 ,17"}),
        (f"{ADD}Flags: Static\nSource-Address: here", 400, {"source-address": "here"}),
        (
            f"{ADD}Flags: Static\nSource-Address: {'192.0.2.1,' * 40}here",
            400,
            {"source-address": f"{'192.0.2.1,' * 40}here"},
        ),
        (f"{ADD}Timeout-Idle: soon", 400, {"timeout-idle": "soon"}),
        ("ADD DTCP/0.7\nFlags: Static", 400, {}),
        (f"ADD DTCP/0.7\nCdest-ID: a,b,c\nFlags: Static\n{DELIVERY}", 400, {"cdest-id": "a,b,c"}),
        ("DELETE DTCP/0.7", 400, {}),
        ("DELETE DTCP/0.7\nCriteria-ID: 1\nCdest-ID: cd1", 400, {"criteria-id": "1", "cdest-id": "cd1"}),
        ("DELETE DTCP/0.7\nCriteria-ID: 1-", 400, {"criteria-id": "1-"}),
        ("DELETE DTCP/0.7\nCdest-ID: cd1,cd2", 400, {"cdest-id": "cd1,cd2"}),
        ("LIST DTCP/0.7\nCdest-ID: cd1,cd2", 400, {"cdest-id": "cd1,cd2"}),
        ("REFRESH DTCP/0.7\nTimeout-Idle: 5", 400, {}),
        # The content destination.
        ("ADD DTCP/0.7\nCdest-ID: cdX\nFlags: Static", 430, {"cdest-id": "cdX"}),
        ("DELETE DTCP/0.7\nCdest-ID: cdX", 430, {"cdest-id": "cdX"}),
        ("ADD DTCP/0.7\nCdest-ID: a\\044b\nFlags: Static", 430, {"cdest-id": "a\\044b"}),
        (
            "ADD DTCP/0.7\nCdest-ID: cd1\nFlags: Static\n" + DELIVERY,
            901,
            {"cdest-id": "cd1"},
        ),
        ("REFRESH DTCP/0.7\nCdest-ID: cdX\nTimeout-Idle: 5", 430, {"cdest-id": "cdX"}),
        ("LIST DTCP/0.7\nCdest-ID: cdX", 430, {"cdest-id": "cdX"}),
        # The criteria.
        ("DELETE DTCP/0.7\nCriteria-ID: 77", 431, {"criteria-id": "77"}),
        ("REFRESH DTCP/0.7\nCriteria-ID: 1-5,77\nTimeout-Idle: 5", 431, {"criteria-id": "77"}),
        ("LIST DTCP/0.7\nCriteria-ID: 77,78", 431, {"criteria-id": "77,78"}),
        # The filter.
        (f"{ADD}Flags: Static\nSource-Address: 192.0.2.1/33", 432, {"source-address": "192.0.2.1/33"}),
        (f"{ADD}Flags: Static\nProtocol: 256", 432, {"protocol": "256"}),
        (f"{ADD}Flags: Static\nProtocol: 1\nDest-Port: 5", 432, {"dest-port": "5"}),
        (
            f"ADD DTCP/0.7\nCdest-ID: a,b\nFlags: Static\n{DELIVERY}",
            432,
            {"x-jtap-cdest-dest-address": "198.51.100.8", "x-jtap-cdest-dest-port": "30000"},
        ),
        (
            f"{ADD}Flags: Static\nX-JTap-VRF-Name: red\nX-JTap-Input-Interface: eth0",
            432,
            {"x-jtap-vrf-name": "red", "x-jtap-input-interface": "eth0"},
        ),
        # The time-outs.
        (ADD, 433, {}),
        (f"{ADD}Timeout-Idle: 0\nTimeout-Bytes: 0", 433, {"timeout-idle": "0", "timeout-bytes": "0"}),
        (f"{ADD}Timeout-Total: 86401", 433, {"timeout-total": "86401"}),
        ("REFRESH DTCP/0.7\nCdest-ID: cd1", 433, {}),
        ("REFRESH DTCP/0.7\nCdest-ID: cd1\nTimeout-Idle: 0", 433, {"timeout-idle": "0"}),
        # What this tap does not do.
        ("ENABLE DTCP/0.7\nCriteria-ID: 1", 501, {}),
        (f"{ADD}Flags: Static\nAction: Block", 501, {"action": "Block"}),
        # What the vendor calls its own failure.
        (
            "ADD DTCP/0.7\nCdest-ID: own\nFlags: Static\n"
            + DELIVERY.replace("X-JTap-Cdest-Dest-Port: 30000\n", ""),
            901,
            {},
        ),
        (
            f"ADD DTCP/0.7\nCdest-ID: own\nFlags: Static\n{DELIVERY.replace('30000', '0')}",
            901,
            {"x-jtap-cdest-dest-port": "0"},
        ),
    ],
)
def test_every_code_names_its_culprit(desk: Desk, text: str, code: int, culprit: dict[str, str]) -> None:
    reply = desk.ask(text)
    assert reply.code == code
    assert reply.seq == "0042"
    given = {each.name.lower(): each.value for each in reply.parameters}
    info, timestamp = given.pop("x-error-info"), given.pop("timestamp")
    assert info
    assert timestamp == "2026-03-02 10:00:00.000"
    assert given == culprit
    # What is not implemented is said in words where the answer has no parameter for it.
    if text.startswith("ENABLE"):
        assert "ENABLE" in info
    assert desk.scene.running == ()


@pytest.mark.ledger("T-051", "T-108")
def test_every_method_s_answer_has_its_time_its_number_and_its_digest(desk: Desk) -> None:
    for text in (
        f"{ADD}Flags: Static",
        f"{ADD}Timeout-Idle: 5",
        "REFRESH DTCP/0.7\nCriteria-ID: 2\nTimeout-Idle: 9",
        "LIST DTCP/0.7\nFlags: Both",
        "DELETE DTCP/0.7\nCriteria-ID: 1\nFlags: Static",
        "NOOP DTCP/0.7",
        "DELETE DTCP/0.7\nCriteria-ID: 1",
    ):
        # Whose digest is wrong is no reply.
        reply = desk.ask(text, at=3.25)
        assert (reply.value("Timestamp"), reply.seq) == ("2026-03-02 10:00:03.250", "0042")


@pytest.mark.ledger("T-095", "T-096")
def test_what_is_not_said_is_copied_with_priority_1(desk: Desk) -> None:
    assert desk.ask(f"{ADD}Flags: Static").code == 200
    assert desk.ask(f"{ADD}Flags: Static\nAction: Copy\nPriority: 1").code == 200
    assert desk.ask(f"{ADD}Flags: Static\nPriority: 0").code == 400
    first, second = desk.scene.control.intercepts
    assert replace(first, criteria_id=2) == second
    assert first.priority == 1


@pytest.mark.ledger("T-090")
def test_an_add_without_any_filter_is_accepted(desk: Desk) -> None:
    assert desk.ask(f"{ADD}Flags: Static").code == 200
    assert desk.scene.running == (1,)


@pytest.mark.ledger("T-094")
def test_a_static_criterion_has_no_time_outs_whatever_was_given(desk: Desk) -> None:
    times = "Timeout-Idle: 1\nTimeout-Total: 1\nTimeout-Packets: 1\nTimeout-Bytes: 1"
    assert desk.ask(f"{ADD}Flags: Static\n{times}").code == 200
    assert desk.scene.control.intercepts[0].timeouts == Timeouts()
    assert desk.scene.expire(90_000) == []
    assert desk.scene.running == (1,)


@pytest.mark.ledger("T-076", "T-078", "T-081")
def test_spelling_and_order_mean_nothing_and_the_first_of_a_name_counts(desk: Desk) -> None:
    lines = [
        "Cdest-ID: cd1",
        "Source-Address: 192.0.2.1",
        "Timeout-Idle: 60",
        "Flags: SendAsync",
        "Priority: 3",
    ]
    for at in range(len(lines)):
        turned = [*lines[at:], *lines[:at]]
        spelt = [line.partition(":")[0].swapcase() + ":" + line.partition(":")[2] for line in turned]
        later = ["source-ADDRESS: 198.51.100.9", "TIMEOUT-idle: 1", "PRIORITY: 200"]
        assert desk.ask("\n".join(["aDd dTcP/0.7", *spelt, *later])).code == 200
    first, *others = desk.scene.control.intercepts
    assert first.filter.source == "192.0.2.1"
    assert (first.timeouts, first.priority, first.send_async) == (Timeouts(idle_s=60), 3, True)
    assert all(replace(each, criteria_id=1) == first for each in others)


@pytest.mark.ledger("T-080")
def test_nothing_behind_the_digest_counts() -> None:
    lines = "NOOP DTCP/0.7\r\nCsource-ID: md\r\nSeq: 1\r\n"
    whole = sign(lines, KEY).removesuffix(b"\r\n") + b"Colour: red\r\nrubbish\r\n\r\n"
    assert isinstance(read_request(whole, Limits(), Keys()), RequestReceived)


@pytest.mark.ledger("T-166", "T-168")
def test_extensions_that_nobody_knows_change_nothing(desk: Desk) -> None:
    for text in (f"{ADD}Flags: Static", "LIST DTCP/0.7", "DELETE DTCP/0.7\nCriteria-ID: 1", "NOOP DTCP/0.7"):
        plain, extended = desk.ask(text), desk.ask(f"{text}\nX-Nobody-Knows: this\nx-or-this:")
        assert (plain.code, extended.code) == (200, 200)
    first, second = desk.scene.control.intercepts
    assert replace(second, criteria_id=1, extensions=first.extensions) == first


@pytest.mark.ledger("T-077")
def test_an_escape_stands_for_a_character_and_separates_nothing(desk: Desk) -> None:
    text = "ADD DTCP/0.7\nCdest-ID: a\\044b\nFlags: Static\n" + DELIVERY
    assert desk.ask(text).code == 200
    assert desk.scene.control.intercepts[0].cdest_ids == ("a,b",)
    (entry,) = desk.ask("LIST DTCP/0.7\nCdest-ID: a\\044\\098").entries
    assert {each.name: each.value for each in entry}["Cdest-ID"] == "a\\044b"
    # With the comma itself there would be two names for one address.
    assert desk.ask(text.replace("\\044", ",")).code == 432


@pytest.mark.ledger("T-074")
def test_blanks_at_the_end_of_lines_are_hashed_and_mean_nothing(desk: Desk) -> None:
    blank = "\n".join(f"{line}  \t" for line in f"{ADD}Source-Address: 192.0.2.1\nFlags: Static".splitlines())
    assert desk.ask(blank, end=" ").code == 200
    assert desk.scene.control.intercepts[0].filter.source == "192.0.2.1"


@pytest.mark.ledger("T-175", "T-176", "T-177", "T-178", "T-179", "T-180")
@pytest.mark.parametrize(
    ("version", "answered", "code"),
    [
        ("0.5", "0.6", 505),
        ("0.6", "0.6", 200),
        ("0.7", "0.7", 200),
        ("0.8", "0.8", 200),
        ("0.9", "0.8", 505),
        ("0.10", "0.8", 505),
        ("1.0", "0.8", 505),
    ],
)
def test_versions(desk: Desk, version: str, answered: str, code: int) -> None:
    for text in (ADD + "Flags: Static", "LIST DTCP/0.7", "FOO DTCP/0.7\nrubbish"):
        reply = desk.ask(text.replace("DTCP/0.7", f"DTCP/{version}"))
        assert str(reply.version) == f"DTCP/{answered}"
        assert reply.code == (501 if code == 200 and "FOO" in text else code)
    assert len(desk.scene.running) == (code == 200)


@pytest.mark.ledger("T-178", "T-196")
def test_the_oldest_version_has_its_own_semantics(desk: Desk) -> None:
    """No IPv6, no codes for limits: what 0.7 calls 550 and 551 was an internal error before."""
    desk.scene.control.apply_policy(replace(policy(max_criteria=1), max_content_destinations=0), now())
    new = "ADD DTCP/{}\nCdest-ID: own\nFlags: Static\n" + DELIVERY
    more = "ADD DTCP/{}\nCdest-ID: cd1\nFlags: Static\nSource-Address: 192.0.2.1"
    six = more.replace("192.0.2.1", "2001:db8::1")
    assert [desk.ask(new.format(version)).code for version in ("0.6", "0.7", "0.8")] == [500, 551, 551]
    assert [desk.ask(six.format(version)).code for version in ("0.6", "0.7")] == [400, 200]
    assert [desk.ask(more.format(version)).code for version in ("0.6", "0.7", "0.8")] == [500, 550, 550]


@pytest.mark.ledger("T-172", "T-174")
def test_lists_that_are_not_implemented(desk: Desk) -> None:
    """Longer lists of ids than the tap reads; every list of the grammar itself is served."""
    many = ",".join(map(str, range(1, Limits().list_elements + 2)))
    for method in ("DELETE DTCP/0.7", "LIST DTCP/0.7", "REFRESH DTCP/0.7\nTimeout-Idle: 5"):
        reply = desk.ask(f"{method}\nCriteria-ID: {many}")
        assert reply.code == 501
        assert "lists of more than 4096 elements are not implemented" in (reply.value("X-Error-Info") or "")
        echoed = reply.value("Criteria-ID") or ""
        assert many.startswith(echoed)
        assert len(echoed) == 4096
    whole = ",".join(map(str, range(1, Limits().list_elements + 1)))
    assert desk.ask(f"LIST DTCP/0.7\nCriteria-ID: {whole}").code == 431
    for name, element in (("Source-Address", "192.0.2.1"), ("Dest-Port", "53"), ("Protocol", "6")):
        for count, code in ((1_024, 200), (1_025, 501)):
            reply = desk.ask(f"{ADD}Flags: Static\n{name}: {','.join([element] * count)}")
            assert (reply.code, reply.value(name) is None) == (code, code == 200)
    lists = (
        "Source-Address: 192.0.2.1, !192.0.2.2,198.51.100.0/24,2001:db8::-2001:db8::9,*-10.0.0.9\n"
        "Protocol: 6,17,!1\nSource-Port: 1-5,9-*,*-3\nDest-Port: !53,80\nFlags: Static"
    )
    assert desk.ask(ADD + lists).code == 200


@pytest.mark.ledger("T-041", "T-045", "T-047", "T-162")
def test_what_is_not_authentic_gets_nothing(desk: Desk) -> None:
    lines = "ADD DTCP/0.9\r\nrubbish\r\nCsource-ID: {}\r\nSeq: 1\r\n"
    for message in (
        sign(lines.format("nobody"), KEY),
        sign(lines.format("md"), Key(b"wrong")),
        sign(lines.format("md").replace("Seq: 1\r\n", ""), KEY),
        sign(lines.format("md").replace("Csource-ID: md\r\n", ""), KEY),
        lines.format("md").encode() + b"\r\n",
    ):
        assert isinstance(read_request(message, Limits(), Keys()), Rejected)
    assert desk.octets("NOOP DTCP/0.7", "nobody") is None
    assert list(desk.scene.store.audit_rows()) == []


def test_an_answer_always_fits_into_a_datagram(desk: Desk) -> None:
    """However long a request was: its errors are cut, and a criterion that would not fit is listed in brief."""
    long = ",".join(["192.0.2.1"] * 6300)
    reply = desk.ask(f"{ADD}Flags: Static\nSource-Address: {long}")
    assert len(reply.value("Source-Address") or "") == 4096
    wide = ",".join(["2001:db8:1111:2222:3333:4444:5555:6666-2001:db8:1111:2222:3333:4444:5555:7777"] * 838)
    for text in (f"Source-Address: {wide}", f"Source-Address: {wide[:60_000].rpartition(',')[0]}", ""):
        assert desk.ask(f"{ADD}Flags: Static\n{text}").code == 200
    listed = desk.scene.list(stats=True)
    response = Response(Version(0, 7), "1", now().wall, listed)
    datagrams = render_datagrams(response, KEY, 1400)
    assert max(map(len, datagrams)) < 65_507
    brief, whole, last = (parse_reply(each, KEY).entries[0] for each in datagrams)
    shown = [
        {each.name: each.value for each in entry}.get("Source-Address") for entry in (brief, whole, last)
    ]
    assert shown == [None, wide[:60_000].rpartition(",")[0], None]
    assert {each.name for each in last} <= {each.name for each in brief}


@pytest.mark.ledger("T-111", "T-114", "T-115", "T-116", "T-117", "T-118", "T-123")
def test_what_deletes_and_refreshes_count(desk: Desk) -> None:
    """By content destination, by ranges, static or not; one unknown id and nothing is done."""
    for cdest in ("cd1", "cd1", "own", "cd1"):
        delivery = DELIVERY if cdest == "own" else ""
        assert desk.ask(f"ADD DTCP/0.7\nCdest-ID: {cdest}\nFlags: Static\n{delivery}").code == 200
    assert desk.ask(f"{ADD}Timeout-Idle: 500").code == 200
    delete = "DELETE DTCP/0.7\n{}\nFlags: Static"
    refresh = "REFRESH DTCP/0.7\n{}\nTimeout-Idle: 600"
    for selector, code, count in (
        ("Criteria-ID: 2,77", 431, None),
        ("Criteria-ID: 60-70", 200, "0"),
        ("Criteria-ID: 2-4", 200, "3"),
        ("Criteria-ID: 5", 200, "1"),
        ("Cdest-ID: own", 200, "1"),
    ):
        reply = desk.ask(refresh.format(selector))
        assert (reply.code, reply.value("Criteria-Count")) == (code, count), selector
    assert [each.refreshes for each in desk.scene.control.intercepts] == [0, 1, 2, 1, 1]
    for selector, static, code, count, left in (
        ("Criteria-ID: 1,77", True, 431, None, (1, 2, 3, 4, 5)),
        ("Criteria-ID: 1", False, 200, "0", (1, 2, 3, 4, 5)),
        ("Criteria-ID: 1-5", False, 200, "1", (1, 2, 3, 4)),
        ("Criteria-ID: 1", True, 200, "1", (2, 3, 4)),
        ("Criteria-ID: 3-9", True, 200, "2", (2,)),
        ("Criteria-ID: 3-9", True, 200, "0", (2,)),
        ("Cdest-ID: cd1", True, 200, "1", ()),
        ("Cdest-ID: cd1", True, 200, "0", ()),
    ):
        text = delete.format(selector) if static else delete.format(selector).replace("\nFlags: Static", "")
        reply = desk.ask(text)
        assert (reply.code, reply.value("Criteria-Count")) == (code, count), selector
        assert desk.scene.running == left


@pytest.mark.ledger("T-042", "T-112", "T-113")
def test_by_content_destination_all_of_one_s_own_and_nothing_else_s(desk: Desk) -> None:
    for login in ("md", "md2", "md"):
        assert desk.ask(f"{ADD}Flags: Static", login).code == 200
    own = f"ADD DTCP/0.7\nCdest-ID: own,cd1\nFlags: Static\n{DELIVERY}".replace(
        "198.51.100.8", "198.51.100.8,198.51.100.7"
    )
    assert desk.ask(own.replace("Port: 30000", "Port: 30000,30000")).code == 200
    # One that goes to two is one of both.
    assert desk.ask("DELETE DTCP/0.7\nCdest-ID: cd1\nFlags: Static").value("Criteria-Count") == "3"
    assert desk.scene.running == (2,)
    assert desk.ask("DELETE DTCP/0.7\nCriteria-ID: *\nFlags: Static").value("Criteria-Count") == "0"
    assert desk.ask("DELETE DTCP/0.7\nCriteria-ID: 2\nFlags: Static").code == 431
    assert desk.scene.running == (2,)


@pytest.mark.ledger("T-004")
def test_a_content_destination_is_its_name_not_its_address(desk: Desk) -> None:
    """Two names at one address are two; one name at two addresses is one."""
    at = "ADD DTCP/0.7\nCdest-ID: {}\nFlags: Static\n" + DELIVERY
    assert desk.ask(at.format("one")).code == 200
    assert desk.ask(at.format("two")).code == 200
    assert desk.ask(at.format("one").replace("198.51.100.8", "198.51.100.9")).code == 200
    assert desk.scene.control.intercepts[0].deliveries[0] == OTHER_DELIVERY
    listed = desk.ask("LIST DTCP/0.7\nCdest-ID: one").entries
    assert [{each.name: each.value for each in entry}["Criteria-ID"] for entry in listed] == ["1", "3"]
    assert desk.ask("DELETE DTCP/0.7\nCdest-ID: two\nFlags: Static").value("Criteria-Count") == "1"
    assert desk.scene.running == (1, 3)


@pytest.mark.ledger("T-130", "T-132", "T-133")
def test_a_list_shows_what_it_is_asked_for_and_changes_nothing(desk: Desk) -> None:
    desk.ask(f"{ADD}Timeout-Idle: 10\nTimeout-Bytes: 999\nSource-Address: 192.0.2.1\nFlags: SendAsync")
    desk.ask(f"{ADD}Flags: Static")
    always = ["Criteria-Count", "Criteria-Num", "Csource-ID", "Csource-Address", "Cdest-ID", "Criteria-ID"]
    always += ["Timestamp"]
    criteria = ["Source-Address", "Timeout-Idle", "Timeout-Bytes"]
    stats = ["Remaining-Idle", "Remaining-Bytes"]
    counters = ["Average-Bandwidth", "Matching-Packets", "Matching-Bytes", "Num-Refresh", "Last-Refresh"]
    before, rows = desk.scene.control.intercepts, desk.scene.store.running()
    deadline, written = desk.scene.control.next_deadline_ns(), len(list(desk.scene.store.audit_rows()))
    for flags, first, second in (
        ("Criteria", [*criteria, "Flags"], ["Flags"]),
        ("Stats", [*stats, *counters], ["Flags", *counters]),
        ("Both", [*criteria, "Flags", *stats, *counters], ["Flags", *counters]),
    ):
        entries = desk.ask(f"LIST DTCP/0.7\nFlags: {flags}", at=9).entries
        assert [[each.name for each in entry] for entry in entries] == [[*always, *first], [*always, *second]]
        assert {each.name: each.value for each in entries[1]}["Flags"] == "Static"
    assert desk.scene.control.intercepts == before
    assert desk.scene.store.running() == rows
    assert desk.scene.control.next_deadline_ns() == deadline
    assert len(list(desk.scene.store.audit_rows())) == written
    # Idle time was not begun anew.
    assert [each.reason for each in desk.scene.expire(10)] == ["idle"]


@pytest.mark.ledger("T-146")
def test_a_noop_has_no_effect(desk: Desk) -> None:
    desk.ask(f"{ADD}Flags: Static")
    before, installed = desk.scene.control.intercepts, list(desk.scene.data_plane.installed)
    written = [json.loads(row.text) for row in desk.scene.store.audit_rows()]
    assert desk.ask("NOOP DTCP/0.7\nFlags: SendAsync", at=50).code == 200
    assert desk.scene.control.intercepts == before
    assert desk.scene.data_plane.installed == installed
    assert [json.loads(row.text) for row in desk.scene.store.audit_rows()] == written


@pytest.mark.ledger("T-105", "T-106", "T-107")
def test_ids_are_unique_across_destinations_sources_and_time(desk: Desk, tmp_path: Path) -> None:
    seen: list[str | None] = []
    for cdest, login in (("cd1", "md"), ("own", "md"), ("cd1", "md2"), ("own", "md2")):
        delivery = DELIVERY if cdest == "own" else ""
        text = f"ADD DTCP/0.7\nCdest-ID: {cdest}\nFlags: Static\n{delivery}"
        seen += [desk.ask(text, login).value("Criteria-ID") for _ in range(2)]
        assert desk.ask(f"DELETE DTCP/0.7\nCriteria-ID: {seen[-1]}\nFlags: Static", login).code == 200
    desk.scene.store.close()
    again = Desk(Scene(tmp_path))
    again.scene.restore(1)
    seen.append(again.ask(f"{ADD}Flags: Static").value("Criteria-ID"))
    again.scene.store.close()
    assert seen == [str(number) for number in range(1, len(seen) + 1)]


@pytest.mark.ledger("T-191")
@pytest.mark.parametrize(("line", "ttl"), [("", 255), ("X-JTap-Cdest-TTL: 9\n", 9)])
def test_the_outer_time_to_live(desk: Desk, line: str, ttl: int) -> None:
    assert desk.ask(f"ADD DTCP/0.7\nCdest-ID: own\nFlags: Static\n{DELIVERY}{line}").code == 200
    assert desk.scene.control.intercepts[0].deliveries[0].ttl == ttl


@pytest.mark.ledger("T-196")
def test_limits_have_codes(desk: Desk) -> None:
    desk.scene.control.apply_policy(replace(policy(max_criteria=2), max_content_destinations=1), now())
    own = f"ADD DTCP/0.7\nCdest-ID: own\nFlags: Static\n{DELIVERY}"
    assert desk.ask(own).code == 200
    assert desk.ask(own.replace("own", "other")).code == Status.MAX_CONTENT_DESTINATIONS_EXCEEDED
    assert desk.ask(own).code == 200
    assert desk.ask(own).code == Status.MAX_CRITERIA_EXCEEDED
    assert desk.scene.running == (1, 2)
