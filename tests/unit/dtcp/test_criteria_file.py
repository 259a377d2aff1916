from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtap.dtcp import CriteriaFileError, Timeouts, parse_criteria_file

DELIVERY = (
    "X-JTap-Cdest-Dest-Address: 192.0.2.20\nX-JTap-Cdest-Dest-Port: 1814\n"
    "X-JTap-Cdest-Source-Address: 198.51.100.1\nX-JTap-Cdest-Source-Port: 65534"
)


def test_a_file_of_the_vendor_s_client() -> None:
    text = (
        "\nADD DTCP/0.7\nCsource-ID: md\nCdest-ID: cd1\nSource-Address: 192.0.2.1\nFlags: STATIC\n"
        f"Timeout-Idle: 5\nSeq: 3\n{DELIVERY}\nAuthentication-Info: 00\n\n\nadd dtcp/0.8\n"
        "Dest-Port: 53  \nTimeout-Idle: 5\nAction: Copy\n"
    )
    for ends in ("\n", "\r\n"):
        first, second = parse_criteria_file(text.replace("\n", ends), "f")
        assert (first.id, first.line, first.cdest_ids) == (1, 2, ("cd1",))
        assert first.timeouts == Timeouts()
        assert len(first.deliveries) == 1
        assert (second.id, second.cdest_ids, second.deliveries) == (2, (), ())
        assert second.filter.destination_port == "53"
        assert second.timeouts == Timeouts(idle_s=5)
        assert second.lines["dest-port"] == second.line + 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("\n\n", 1),
        ("rubbish", 1),
        ("ADD DTCP/0.7\n\nDELETE DTCP/0.7\nCriteria-ID: 1", 3),
        ("ADD DTCP/1.0", 1),
        ("ADD DTCP/0.7\nSource-Address", 2),
        ("ADD DTCP/0.7\nProtocol: 6\nColour: red", 3),
        ("ADD DTCP/0.7\nProtocol: 6\nAction: Block", 3),
        ("ADD DTCP/0.7\nTimeout-Idle: soon", 2),
        ("ADD DTCP/0.7\nX-JTap-Cdest-Dest-Port: 1\nProtocol: 6", 1),
        (f"ADD DTCP/0.7\nProtocol: 6\n{DELIVERY}".replace("1814", "0"), 4),
        ("ADD DTCP/0.7\nProtocol: 6\nFlags: rubbish", 3),
        ("ADD DTCP/0.7\nPriority: x\nProtocol: 6", 2),
        ("ADD DTCP/0.7\nProtocol: 6\nX-Own: a\rb", 3),
        ("ADD DTCP/0.7\nProtocol: 6\nCdest-ID: a,b,c", 3),
    ],
)
def test_errors_name_the_line(text: str, line: int) -> None:
    with pytest.raises(CriteriaFileError) as caught:
        parse_criteria_file(text, "here.txt")
    assert caught.value.line == line
    assert str(caught.value).startswith(f"here.txt, line {line}: ")


@given(st.text())
def test_any_text_is_criteria_or_an_error(text: str) -> None:
    for whole in (text, f"ADD DTCP/0.7\n{text}"):
        try:
            assert parse_criteria_file(whole, "f")
        except CriteriaFileError as error:
            assert error.line >= 1
