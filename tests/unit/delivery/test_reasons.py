"""What a log tells of why a tunnel does not come up; the lines are those of strongSwan 5.9.8."""

from __future__ import annotations

import pytest

from flowtap.delivery.reasons import Reasons


@pytest.mark.parametrize(
    ("lines", "meaning"),
    [
        (["received NO_PROPOSAL_CHOSEN notify error"], "none of the proposals"),
        (
            [
                "received NO_PROPOSAL_CHOSEN notify, no CHILD_SA built",
                "failed to establish CHILD_SA, keeping IKE_SA",
            ],
            "none of the proposals",
        ),
        (["received AUTHENTICATION_FAILED notify error"], "one side does not prove itself"),
        (["received INVALID_ID_INFORMATION error notify"], "does not take these networks"),
        (["received TS_UNACCEPTABLE notify, no CHILD_SA built"], "does not take these networks"),
        (
            [
                "invalid HASH_V1 payload length, decryption failed?",
                "could not decrypt payloads",
                "message parsing failed",
                "sending retransmit 1 of request message ID 0, seq 3",
                "giving up after 2 retransmits",
            ],
            "pre-shared key is probably another one",
        ),
        (["sending retransmit 1 of request message ID 0, seq 1"], "the other gateway does not answer"),
        (
            [
                "received netlink error: Function not implemented (38)",
                "unable to install inbound and outbound IPsec SA (SAD) in kernel",
            ],
            "the kernel of this host has no ESP",
        ),
        (
            ["unable to install inbound and outbound IPsec SA (SAD) in kernel"],
            "the kernel of this host has no ESP",
        ),
        (
            ["error installing route with policy 192.0.2.0/24 === 2.2.2.0/27 out"],
            "an address of this host must lie in local_networks",
        ),
        (["no trusted ECDSA public key found for 'CN=gateway.example'"], "not of the authority"),
        (["no shared key found for '192.0.2.1' - '192.0.2.2'"], "no pre-shared key for these two"),
        (["a plugin failed to do something new"], "strongSwan: a plugin failed"),
    ],
)
def test_meanings(lines: list[str], meaning: str) -> None:
    reasons = Reasons()
    for each in lines:
        reasons.tell(each)
    assert meaning in str(reasons)
    assert "keeping IKE_SA" not in str(reasons)


@pytest.mark.parametrize(
    "line",
    [
        "initiating Main Mode IKE_SA md[1] to 123.123.123.123",
        "generating ID_PROT request 0 [ SA V V V V V ]",
        "sending packet: from 100.100.100.100[500] to 123.123.123.123[500] (176 bytes)",
        "received packet: from 123.123.123.123[500] to 100.100.100.100[500] (156 bytes)",
        "received DPD vendor ID",
        "parsed IKE_AUTH response 1 [ N(AUTH_FAILED) ]",
        "IKE_SA md[1] established between 100.100.100.100[a]...123.123.123.123[b]",
        "scheduling rekeying in 11784s",
        "remote host is behind NAT",
        "establishing CHILD_SA 'md-content' failed",
    ],
)
def test_what_tells_nothing(line: str) -> None:
    reasons = Reasons()
    reasons.tell(line)
    assert str(reasons) == ""


def test_another_attempt_takes_the_place_of_the_last_one() -> None:
    reasons = Reasons()
    reasons.tell("received NO_PROPOSAL_CHOSEN notify error")
    reasons.begin()
    assert "none of the proposals" in str(reasons)
    reasons.tell("received AUTHENTICATION_FAILED notify error")
    assert "proposals" not in str(reasons)
    reasons.clear()
    assert str(reasons) == ""


def test_it_is_short_and_printable_whatever_the_other_side_has_logged() -> None:
    reasons = Reasons()
    for number in range(100):
        reasons.tell(f"{number} no trusted key for 'CN=\x1b[31m\n{'x' * 10_000}'")
    assert str(reasons).isprintable()
    assert len(str(reasons)) < 700
