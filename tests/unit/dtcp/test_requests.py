"""What every method demands, and the code that answers what is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtap.dtcp import codec
from flowtap.dtcp.authentication import Key
from flowtap.dtcp.grammar import SyntaxFault
from flowtap.dtcp.limits import Limits
from flowtap.dtcp.messages import (
    AddRequest,
    DeleteRequest,
    ListRequest,
    NoopRequest,
    RefreshRequest,
    Request,
    Scope,
    Version,
)
from flowtap.dtcp.render import render_request
from flowtap.dtcp.status import Status

DELIVERY = (
    "X-JTap-Cdest-Dest-Address: 192.0.2.20\nX-JTap-Cdest-Dest-Port: 1814\n"
    "X-JTap-Cdest-Source-Address: 198.51.100.1\nX-JTap-Cdest-Source-Port: 65534\n"
)


NINE = "a,b,c,d,e,f,g,h,i"


def parse(text: str) -> Request:
    lines = text + "\nCsource-ID: md\nSeq: 1\n"
    envelope = codec.open_envelope(lines.replace("\n\n", "\n").encode(), Limits())
    return codec.parse_request(envelope, Limits())


def add(text: str, *, flags: str = "Flags: Static\n") -> AddRequest:
    request = parse(f"ADD DTCP/0.7\nCdest-ID: cd1\n{flags}{text}")
    assert isinstance(request, AddRequest)
    return request


def status(text: str) -> Status:
    with pytest.raises(SyntaxFault) as caught:
        parse(text)
    assert caught.value.info
    return caught.value.status


def add_status(text: str, *, flags: str = "Flags: Static\n") -> Status:
    return status(f"ADD DTCP/0.7\nCdest-ID: cd1\n{flags}{text}")


@pytest.mark.ledger("T-047")
@pytest.mark.parametrize(
    "text",
    [
        "NOOP DTCP/0.7\nSeq: 1\n",
        "NOOP DTCP/0.7\nCsource-ID: a\n",
        "NOOP DTCP/0.7\nCsource-ID: a\nSeq: x\n",
        "NOOP DTCP/0.7\nCsource-ID: a,b\nSeq: 1\n",
        "NOOP DTCP/0.7\nCsource-ID: \nSeq: 1\n",
        "",
    ],
)
def test_without_an_envelope_nothing_can_be_authenticated(text: str) -> None:
    with pytest.raises(SyntaxFault):
        codec.open_envelope(text.encode(), Limits())


@pytest.mark.ledger("T-163", "T-171")
def test_version_then_method_then_syntax() -> None:
    assert status("FOO DTCP/0.9\nrubbish") == Status.VERSION_NOT_SUPPORTED
    assert status("FOO DTCP/0.7\nrubbish") == Status.NOT_IMPLEMENTED
    assert status("ENABLE DTCP/0.7\nCriteria-ID: 1") == Status.NOT_IMPLEMENTED
    assert status("ADD DTCP/0.7\nrubbish") == Status.BAD_REQUEST
    assert status("ADD") == Status.BAD_REQUEST


def test_a_whole_add() -> None:
    request = add(
        "source-address: 192.0.2.1\nDest-Address: *\nProtocol: 6,17\nSource-Port: *\nDest-Port: 53\n"
        "Timeout-Idle: 600\nTimeout-Packets: 18446744073709551615\nAction: copy\nPriority: 3\nX-Own: y\n",
        flags="Flags: SendAsync\n",
    )
    assert isinstance(request, AddRequest)
    assert (request.filter.source, request.filter.destination_port) == ("192.0.2.1", "53")
    assert (request.timeouts.idle_s, request.timeouts.packets) == (600, 2**64 - 1)
    assert (request.static, request.send_async, request.priority) == (False, True, 3)
    assert [each.name for each in request.extensions] == ["X-Own"]
    assert request.deliveries == ()


@pytest.mark.ledger("T-081")
def test_the_first_of_a_name_counts() -> None:
    request = add("Source-Address: 192.0.2.1\nsource-address: 192.0.2.2\n")
    assert isinstance(request, AddRequest)
    assert request.filter.source == "192.0.2.1"


@pytest.mark.ledger("T-093", "T-173")
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Action: Block", Status.NOT_IMPLEMENTED),
        ("Colour: red", Status.BAD_REQUEST),
        ("Priority: 256", Status.BAD_REQUEST),
        ("Flags: Both", Status.BAD_REQUEST),
        ("Timeout-Packets: x", Status.BAD_REQUEST),
        ("Timeout-Idle: 86401", Status.IMPROPER_TIMEOUT),
        ("Timeout-Total: 99999", Status.IMPROPER_TIMEOUT),
        ("Timeout-Total: 100000", Status.IMPROPER_TIMEOUT),
        ("Timeout-Bytes: 18446744073709551616", Status.IMPROPER_TIMEOUT),
        ("Timeout-Idle: soon\nAction: Block", Status.BAD_REQUEST),
        ("Timeout-Idle: 86401\nAction: Block", Status.NOT_IMPLEMENTED),
        ("Priority: 0", Status.BAD_REQUEST),
        ("Timeout-Idle: 0", Status.IMPROPER_TIMEOUT),
        ("", Status.IMPROPER_TIMEOUT),
    ],
)
def test_wrong_adds(text: str, code: Status) -> None:
    assert add_status(text, flags="") == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("X-JTap-IP-Version: ipx", Status.JTAP_FAILURE),
        ("X-JTap-IP-Version: ipv6\nSource-Address: *,!192.0.2.1", Status.JTAP_FAILURE),
        ("X-JTap-IP-Version: ipv4\nDest-Address: ::ffff:192.0.2.1", Status.JTAP_FAILURE),
        ("X-JTap-VRF-Name: red\nX-Interface-Id: demux0.1", Status.JTAP_FAILURE),
        ("IPVersion: ipv5", Status.JTAP_FAILURE),
        ("IPVersion: ipv6\nSource-Address: 192.0.2.1", Status.JTAP_FAILURE),
        # An ADD for one subscriber would tap everybody if this were discarded.
        ("X-UserName: somebody", Status.JTAP_FAILURE),
        ("x-rm-circuit-id: 7", Status.JTAP_FAILURE),
    ],
)
def test_vendor_parameters_that_would_change_the_filter(text: str, code: Status) -> None:
    assert add_status(text) == code


def test_a_family_that_agrees_with_the_filter_is_accepted() -> None:
    for text in ("IPv6\nSource-Address: ::ffff:192.0.2.1-*", "ipv4\nDest-Address: 192.0.2.0/24", "ipv6"):
        assert isinstance(add(f"X-JTap-IP-Version: {text}\n"), AddRequest)


@pytest.mark.ledger("T-075")
def test_white_space_that_may_be_and_that_may_not() -> None:
    """Blanks at the end of a line and around a colon are nothing; inside a value they are wrong."""
    assert isinstance(add("Protocol\t :  6,17 \t\n"), AddRequest)
    assert isinstance(parse("ADD \t DTCP/0.7  \nCdest-ID: cd1\nFlags: Static"), AddRequest)
    for text in ("Priority: 1 2", "\tPriority: 1", "Flags : Static, SendAsync x"):
        assert add_status(text, flags="") == Status.BAD_REQUEST, text
    for names in ("a b", "cd1 ,cd2", "cd1,  cd2"):
        assert status(f"ADD DTCP/0.7\nCdest-ID: {names}\nFlags: Static") == Status.BAD_REQUEST, names
    assert status(" ADD DTCP/0.7\nCdest-ID: cd1\nFlags: Static") == Status.BAD_REQUEST


@pytest.mark.ledger("T-178")
def test_what_the_first_version_did_not_have() -> None:
    """0.6 has no IPv6 addresses; what is added to it must not mean something else in it."""
    text = "ADD DTCP/{}\nSource-Address: {}\nCdest-ID: cd1\nFlags: Static"
    assert isinstance(parse(text.format("0.6", "192.0.2.1")), AddRequest)
    assert isinstance(parse(text.format("0.7", "2001:db8::1")), AddRequest)
    assert status(text.format("0.6", "2001:db8::1")) == Status.BAD_REQUEST
    delivery = "X-JTap-Cdest-Dest-Address: 2001:db8::9\n"
    assert status(f"ADD DTCP/0.6\nCdest-ID: cd1\nFlags: Static\n{delivery}") == Status.BAD_REQUEST


def test_lists_have_a_bound() -> None:
    ids = ",".join(map(str, range(4097)))
    assert status(f"DELETE DTCP/0.7\nCriteria-ID: {ids}") == Status.NOT_IMPLEMENTED


def test_a_request_without_destination_is_wrong_before_its_action_is_looked_at() -> None:
    assert status("ADD DTCP/0.7\nFlags: Static\nAction: Block") == Status.BAD_REQUEST


def test_content_destinations() -> None:
    assert status("ADD DTCP/0.7\nFlags: Static") == Status.BAD_REQUEST
    for names in ("a,b,c", "a,a"):
        assert status(f"ADD DTCP/0.7\nFlags: Static\nCdest-ID: {names}") == Status.BAD_REQUEST


def test_requests_share_what_says_the_same() -> None:
    first, second = add(DELIVERY + "X-Note: one\n"), add(DELIVERY + "X-Note: two\n")
    assert first.deliveries is second.deliveries
    assert [each.value for each in first.extensions][4:] == ["one"]
    assert [each.value for each in second.extensions][4:] == ["two"]
    for one, same in zip(first.extensions[:4], second.extensions[:4], strict=True):
        assert one is same
    assert first.scope is second.scope
    # Written otherwise, it is answered as it was written.
    upper = add(DELIVERY.upper())
    assert upper.deliveries == first.deliveries
    assert upper.extensions[0].name == "X-JTAP-CDEST-DEST-ADDRESS"
    for other in (add(DELIVERY + "X-JTap-Cdest-TTL: 64\n"), add(DELIVERY.replace("1814", "1815"))):
        assert other.deliveries != first.deliveries


def test_delivery_parameters() -> None:
    request = add(DELIVERY + "X-JTap-Cdest-TTL: 64\nX-JTap-IP-Version: ipv6\n")
    assert isinstance(request, AddRequest)
    (delivery,) = request.deliveries
    assert (str(delivery.address), delivery.port, delivery.ttl) == ("192.0.2.20", 1814, 64)
    two = parse(
        "ADD DTCP/0.7\nCdest-ID: a,b\nFlags: STATIC\n"
        + DELIVERY.replace("192.0.2.20", "192.0.2.20,192.0.2.21").replace("1814", "1814, 1815")
    )
    assert isinstance(two, AddRequest)
    assert [each.port for each in two.deliveries] == [1814, 1815]
    assert {each.ttl for each in two.deliveries} == {255}


@pytest.mark.ledger("T-190", "T-192", "T-195")
@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        ("X-JTap-Cdest-Dest-Port: 1814\n", "", Status.JTAP_FAILURE),
        ("X-JTap-Cdest-Source-Address: 198.51.100.1\n", "", Status.JTAP_FAILURE),
        ("192.0.2.20", "192.0.2.20,192.0.2.21", Status.IMPROPER_FILTER),
        ("1814", "1814,1815", Status.IMPROPER_FILTER),
        ("1814", "65536", Status.JTAP_FAILURE),
        ("1814", "0", Status.JTAP_FAILURE),
        ("192.0.2.20", "here", Status.JTAP_FAILURE),
        ("192.0.2.20", "2001:db8::1", Status.JTAP_FAILURE),
        ("192.0.2.20", "224.0.0.1", Status.JTAP_FAILURE),
        ("198.51.100.1", "0.0.0.0", Status.JTAP_FAILURE),
        ("198.51.100.1", "255.255.255.255", Status.JTAP_FAILURE),
        ("65534", "1,2", Status.JTAP_FAILURE),
        ("65534\n", "65534\nX-JTap-Cdest-TTL: 256\n", Status.JTAP_FAILURE),
        ("65534\n", "65534\nX-JTap-Input-Interface: a,,b\n", Status.JTAP_FAILURE),
        ("65534\n", f"65534\nX-JTap-Output-Interface: {NINE}\n", Status.JTAP_FAILURE),
        ("65534\n", "65534\nX-Jtap-Filter-Family: inet\n", Status.JTAP_FAILURE),
        ("65534\n", "65534\nX-Jtap-Filter-Family: ccc\n", Status.BAD_REQUEST),
        (
            "65534\n",
            "65534\nX-JTap-VRF-Name: red\nX-JTap-Output-Interface: ge-0/0/0\n",
            Status.IMPROPER_FILTER,
        ),
    ],
)
def test_wrong_delivery_parameters(before: str, after: str, code: Status) -> None:
    assert before in DELIVERY
    assert add_status(DELIVERY.replace(before, after)) == code


def scope(text: str, version: str = "0.8") -> Scope:
    request = parse(f"ADD DTCP/{version}\nCdest-ID: cd1\nFlags: Static\n{text}")
    assert isinstance(request, AddRequest)
    return request.scope


@pytest.mark.ledger("T-194")
def test_scope() -> None:
    assert scope("") == Scope()
    eight = ",".join(f"ge-1/0/{at}.0" for at in range(8))
    assert scope(f"X-JTap-Input-Interface: {eight}") == Scope(tuple(eight.split(",")))
    assert scope("X-JTap-Output-Interface: a, b,a") == Scope(output_interfaces=("a", "b"))
    both = scope("X-JTap-Input-Interface: a\nX-JTap-Output-Interface: b")
    assert (both.input_interfaces, both.output_interfaces) == (("a",), ("b",))
    assert scope("X-JTap-VRF-Name: RED") == Scope(vrf="RED")
    assert scope("X-JTap-IP-Version: IPv6") == Scope(ip_version=6)
    assert scope("IPVersion: ipv4") == Scope(ip_version=4)
    # There were no others then.
    assert scope("", "0.6") == Scope(ip_version=4)


def test_layer_2() -> None:
    wildcards = "Source-Address: *\nProtocol: *\n"
    assert scope(f"{wildcards}X-Jtap-Filter-Family: ccc") == Scope(is_circuit=True)
    assert scope("X-JTap-Filter-Family: CCC\nX-JTap-Input-Interface: a") == Scope(("a",), is_circuit=True)
    for text in ("Protocol: 17", "Source-Address: 192.0.2.1", "Dest-Port: 53", "X-JTap-IP-Version: ipv4"):
        refused = status(f"ADD DTCP/0.8\nCdest-ID: cd1\nFlags: Static\n{text}\nX-JTap-Filter-Family: ccc")
        assert refused == Status.BAD_REQUEST


def test_a_scope_says_its_parameters() -> None:
    whole = Scope(("a", "b"), ("c",), "RED", 6, is_circuit=True)
    assert dict(whole.parameters()) == {
        "X-JTap-Input-Interface": "a,b",
        "X-JTap-Output-Interface": "c",
        "X-JTap-VRF-Name": "RED",
        "X-JTap-IP-Version": "ipv6",
        "X-JTap-Filter-Family": "ccc",
    }
    assert Scope().parameters() == ()
    request = AddRequest(Version(0, 8), "md", "1", ("cd1",), static=True, scope=Scope(("a",), ip_version=6))
    text = render_request(request, Key(b"k")).decode()
    assert "X-JTap-Input-Interface: a\r\n" in text
    assert "X-JTap-IP-Version: ipv6\r\n" in text


def test_delete() -> None:
    request = parse("DELETE DTCP/0.6\nCRITERIA-ID: 2,5-9\nFlags: STATIC")
    assert isinstance(request, DeleteRequest)
    assert request.static
    assert request.criteria_ids is not None
    by_name = parse("DELETE DTCP/0.8\nCDest-ID: cd1")
    assert isinstance(by_name, DeleteRequest)
    assert (by_name.cdest_id, by_name.static) == ("cd1", False)
    for wrong in (
        "",
        "Criteria-ID: 1\nCdest-ID: a",
        "Cdest-ID: a,b",
        "Criteria-ID: x",
        "Cdest-ID: a\nFlags: Both",
    ):
        assert status(f"DELETE DTCP/0.7\n{wrong}") == Status.BAD_REQUEST


@pytest.mark.parametrize(
    ("flags", "criteria", "stats"),
    [
        ("", True, False),
        ("Flags:  BOTH", True, True),
        ("Flags: All", True, True),
        ("Flags: Criteria", True, False),
        ("Flags: stats", False, True),
    ],
)
def test_list(flags: str, criteria: bool, stats: bool) -> None:
    request = parse(f"LIST DTCP/0.7\n{flags}")
    assert isinstance(request, ListRequest)
    assert (request.criteria, request.stats) == (criteria, stats)
    assert status("LIST DTCP/0.7\nFlags: Static") == Status.BAD_REQUEST


def test_refresh() -> None:
    request = parse("REFRESH DTCP/0.7\nCriteria-ID: 2,10-20\nTimeout-Idle: 900\nTimeout-Packets: 0")
    assert isinstance(request, RefreshRequest)
    assert (request.timeouts.idle_s, request.timeouts.packets, request.timeouts.total_s) == (900, 0, None)
    for wrong, code in (
        ("Timeout-Idle: 1", Status.BAD_REQUEST),
        ("Criteria-ID: 1\nCdest-ID: a\nTimeout-Idle: 1", Status.BAD_REQUEST),
        ("Criteria-ID: 1\nFlags: Static\nTimeout-Idle: 1", Status.BAD_REQUEST),
        ("Cdest-ID: a", Status.IMPROPER_TIMEOUT),
        ("Cdest-ID: a\nTimeout-Idle: 0\nTimeout-Bytes: 0", Status.IMPROPER_TIMEOUT),
        ("Cdest-ID: a\nTimeout-Idle: 86401", Status.IMPROPER_TIMEOUT),
        ("Cdest-ID: a\nTimeout-Idle: soon", Status.BAD_REQUEST),
    ):
        assert status(f"REFRESH DTCP/0.7\n{wrong}") == code, wrong


@pytest.mark.ledger("T-168")
def test_noop() -> None:
    request = parse("NOOP DTCP/0.7\nFlags: SendAsync\nX-Unknown: is discarded")
    assert isinstance(request, NoopRequest)
    assert request.send_async


@given(st.binary(max_size=300))
def test_any_text_is_a_request_or_a_fault(text: bytes) -> None:
    for octets in (text, b"ADD DTCP/0.7\nCsource-ID: a\nSeq: 1\n" + text):
        try:
            codec.parse_request(codec.open_envelope(octets, Limits()), Limits())
        except SyntaxFault as fault:
            assert fault.info
