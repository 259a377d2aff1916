"""The services that tap: what the vendor demands of them, and what becomes of them."""

from __future__ import annotations

import pytest

from flowtap.config.junos import Import, import_text

UNIT = "set interfaces sp-0/3/0 unit 0 family inet\n"
TUNNEL = "set interfaces vt-1/0/0 unit 0 family inet\nset interfaces vt-1/0/0 unit 0 family inet6\n"
# So that something is mapped.
ANYTHING = "set system host-name tap\n"


def import_lines(lines: str) -> Import:
    return import_text(ANYTHING + UNIT + TUNNEL + lines, {})


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("set services flow-tap interface sp-0/3/0.0", ""),
        ("set services flow-tap tunnel-interface vt-1/0/0.0", ""),
        ("set services flow-tap interface sp-0/3/0.1", "there is no sp-0/3/0.1"),
        ("set services flow-tap interface sp-0/3/0", "is no logical interface"),
        ("set services flow-tap interface sp-9/9/9.0", "there is no sp-9/9/9.0"),
        ("set services flow-tap tunnel-interface sp-0/3/0.0", "needs family inet6"),
        (
            "set services flow-tap interface sp-0/3/0.0\nset services flow-tap tunnel-interface vt-1/0/0.0",
            "cannot stand beside interface",
        ),
        ("set services flow-tap family [ inet inet6 ccc ]", ""),
        ("set services flow-tap family mpls", "one of inet, inet6, ccc"),
        (
            "set services flow-tap family inet\nset services dynamic-flow-capture g-max-duplicates 3",
            "cannot stand beside services flow-tap",
        ),
        (
            (
                "set services dynamic-flow-capture g-max-duplicates 3\n"
                "set services radius-flow-tap interfaces vt-1/0/0.0"
            ),
            "cannot stand beside services dynamic-flow-capture",
        ),
        (
            "set services flow-tap family inet\nset services mobile-flow-tap source-interface ge-0/0/0.0",
            "cannot stand beside services flow-tap",
        ),
        ("set services radius-flow-tap interfaces vt-1/0/0.0", ""),
        ("set services radius-flow-tap interfaces vt-1/0/0.7", "there is no vt-1/0/0.7"),
        (
            (
                "set interfaces vt-1/0/0 unit 0 family inet filter input f\n"
                "set services radius-flow-tap interfaces vt-1/0/0.0"
            ),
            "has a firewall filter",
        ),
        ("set services radius-flow-tap source-ipv4-address 192.0.2.1", ""),
        ("set services radius-flow-tap source-ipv4-address 2.2.2.2.2", "'2.2.2.2.2' is no IPv4 address"),
        ("set services radius-flow-tap source-ipv4-address 2001:db8::1", "is no IPv4 address"),
        ("set services radius-flow-tap snmp notify-targets 192.0.2.300", "is no address"),
        (
            "set services radius-flow-tap routing-instance a\nset services radius-flow-tap routing-instance b",
            "one routing-instance",
        ),
        (
            (
                "set services radius-flow-tap routing-instance a\n"
                "set services radius-flow-tap logical-system b routing-instance c"
            ),
            "one routing-instance",
        ),
    ],
)
def test_the_vendor_s_constraints(lines: str, words: str) -> None:
    reasons = [each.reason for each in import_lines(lines).faults]
    assert (words == "") == (reasons == [])
    assert all(words in reason for reason in reasons[:1]), reasons


def test_part_of_a_configuration_is_told_as_such() -> None:
    (fault,) = import_text("set services flow-tap interface sp-0/0/0.0", {}).faults
    assert fault.reason.endswith("print the whole configuration")


def test_deactivated_units_are_none() -> None:
    lines = "deactivate interfaces sp-0/3/0 unit 0 family inet\nset services flow-tap interface sp-0/3/0.0"
    assert [each.reason for each in import_lines(lines).faults] == ["sp-0/3/0.0 needs family inet here"]


def test_nothing_of_them_is_left_unsaid() -> None:
    imported = import_lines(
        "set services flow-tap interface sp-0/3/0.0\nset services radius-flow-tap forwarding-class ef\n"
        "set services radius-flow-tap multicast-interception\nset services radius-flow-tap traceoptions file dfcd\n"
        "set services radius-flow-tap snmp notify-targets 192.0.2.3\nset services radius-flow-tap new-thing 1\n"
        "set services radius-flow-tap policy p inet drop-policy t from source-address 192.0.2.0/24\n"
        "set services radius-flow-tap source-ipv4-address 192.0.2.1"
    )
    found = {
        each.statement.removeprefix("services "): each.outcome for each in imported.entries if each.line > 4
    }
    assert found == {
        "flow-tap interface sp-0/3/0.0": "ignored",
        "radius-flow-tap forwarding-class ef": "unmapped",
        "radius-flow-tap multicast-interception": "ignored",
        "radius-flow-tap traceoptions file dfcd": "ignored",
        "radius-flow-tap snmp notify-targets 192.0.2.3": "unmapped",
        "radius-flow-tap new-thing 1": "unmapped",
        "radius-flow-tap policy p inet drop-policy t from source-address 192.0.2.0/24": "unmapped",
        # With flow-tap clients name their own.
        "radius-flow-tap source-ipv4-address 192.0.2.1": "unmapped",
    }
    assert ("policy",) not in imported.draft.sections


def test_the_source_of_mirrored_packets_bounds_all_copies() -> None:
    imported = import_lines("set services radius-flow-tap source-ipv4-address 192.0.2.1")
    assert imported.draft.value(("policy",), "source_addresses") == ["192.0.2.1"]
