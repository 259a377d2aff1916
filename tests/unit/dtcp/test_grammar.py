from __future__ import annotations

from datetime import datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtap.dtcp import grammar
from flowtap.dtcp.grammar import ID_MAX, SyntaxFault
from flowtap.dtcp.limits import Limits
from flowtap.dtcp.messages import IdRange, Parameter, Version
from flowtap.dtcp.status import Status

LIMITS = Limits(name_octets=8, list_elements=3)


def test_request_lines() -> None:
    assert grammar.request_line("add  dtcp/0.7 ") == ("ADD", Version(0, 7))
    assert str(Version(0, 10)) == "DTCP/0.10"
    for wrong in (
        *("", "ADD", "ADD DTCP/0", "ADD DTCP/0.x", "ADD HTTP/1.1", " ADD DTCP/0.7"),
        *("ADD DTCP/\u0660.\u0667", "LI\u017fT DTCP/0.7"),
    ):
        with pytest.raises(SyntaxFault):
            grammar.request_line(wrong)


@pytest.mark.ledger("T-176")
def test_versions_are_compared_as_numbers() -> None:
    inorder = [Version(0, 9), Version(0, 10), Version(2, 9), Version(3, 1), Version(10, 0)]
    assert all(a < b for a, b in pairwise(inorder))
    assert grammar.request_line("NOOP DTCP/0.10")[1] > grammar.request_line("NOOP DTCP/0.9")[1]
    assert grammar.request_line("NOOP DTCP/00.07")[1] == Version(0, 7)


def test_response_lines() -> None:
    assert grammar.response_line("DTCP/0.7 200 OK ") == (Version(0, 7), 200, "OK")
    assert grammar.response_line("DTCP/0.7 999") == (Version(0, 7), 999, "")
    for wrong in ("", "DTCP/0.7 20 OK", "200 OK"):
        with pytest.raises(SyntaxFault):
            grammar.response_line(wrong)


def test_parameters() -> None:
    assert grammar.parameter("Flags:  BOTH ", 3) == Parameter("Flags", "BOTH", 3)
    assert grammar.parameter("Flags \t:\tBOTH", 3) == Parameter("Flags", "BOTH", 3)
    assert grammar.parameter("A:b:c", 2) == Parameter("A", "b:c", 2)
    for wrong in ("", "Flags", ": x", "Fl ags: x", " Flags: x", "X: a\rSeq: 9", "X: \x1b[2J", "X: \x7f"):
        with pytest.raises(SyntaxFault, match="line 7"):
            grammar.parameter(wrong, 7)


@pytest.mark.parametrize("wrong", ["", "-1", "1.5", "0x1", "1 ", "256", "0256", "\u0661"])
def test_numbers(wrong: str) -> None:
    assert grammar.number(Parameter("P", "255"), 255) == 255
    with pytest.raises(SyntaxFault, match="P: "):
        grammar.number(Parameter("P", wrong), 255)


@pytest.mark.ledger("T-077")
def test_names() -> None:
    assert grammar.name_list(Parameter("C", "cd1, cd2"), LIMITS) == ("cd1", "cd2")
    assert grammar.name_list(Parameter("C", r"a\044b"), LIMITS) == ("a,b",)
    assert grammar.name_list_text(("a,b", "c d", "e\\")) == r"a\044b,c\032d,e\092"
    assert grammar.name_list(Parameter("C", r"\195\188"), LIMITS) == ("\u00fc",)
    for wrong in (
        *("", "a,", "a b", r"a\4", "123456789", "\u00e9"),
        *(r"\999", r"\256", r"a\010b", r"\027[2J", r"\252", "a\\\u0663\u0663\u0663"),
    ):
        with pytest.raises(SyntaxFault):
            grammar.name_list(Parameter("C", wrong), LIMITS)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), min_size=1, max_size=9),
        min_size=1,
    )
)
def test_names_survive(names: list[str]) -> None:
    written = Parameter("C", grammar.name_list_text(names))
    assert grammar.name_list(written, Limits()) == tuple(names)


def test_ids() -> None:
    parse = grammar.id_list
    assert parse(Parameter("I", "7, 9-12"), LIMITS) == (
        IdRange(7, 7, single=True),
        IdRange(9, 12, single=False),
    )
    for text in ("*", "5-*", "*-5", "1,2-3,*"):
        assert grammar.id_list_text(parse(Parameter("I", text), LIMITS)) == text
    assert parse(Parameter("I", "*"), LIMITS) == (IdRange(0, ID_MAX, single=False),)
    for wrong in ("", "a", "3-2", "*-*", "1-", "-1", "1,2,3,4", str(2**64)):
        with pytest.raises(SyntaxFault):
            parse(Parameter("I", wrong), LIMITS)


def test_words_and_addresses() -> None:
    assert grammar.words(Parameter("F", "STATIC, SendAsync")) == ("static", "sendasync")
    assert len(grammar.address_list(Parameter("A", "192.0.2.1,2001:db8::1"))) == 2
    with pytest.raises(SyntaxFault) as caught:
        grammar.address_list(Parameter("A", "192.0.2.256"))
    assert caught.value.status == Status.JTAP_FAILURE
    with pytest.raises(SyntaxFault, match="zones"):
        grammar.address_list(Parameter("A", "fe80::1%eth0"))


@pytest.mark.ledger("T-086")
def test_times() -> None:
    moment = datetime(2026, 3, 2, 1, 2, 3, 4999)  # noqa: DTZ001 - the protocol has no zone
    assert grammar.format_time(moment) == "2026-03-02 01:02:03.004"
    assert grammar.parse_time("2026-03-02 01:02:03.004") == moment.replace(microsecond=4000)
    assert grammar.parse_time("yesterday") is None


@pytest.mark.ledger("T-071")
def test_lines() -> None:
    assert grammar.split_lines(b"a\r\nb\nc\xff") == ["a", "b", "c\ufffd"]
