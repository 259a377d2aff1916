from __future__ import annotations

import pytest

from flowtap.cli.show_words import OWN_PAGES, WordError, first_words, read_words


def test_own_pages_show_the_view_of_their_name() -> None:
    for name in OWN_PAGES:
        page = read_words([name]).page
        assert (page.name, page.view) == (name, name)


@pytest.mark.parametrize(
    ("words", "page", "view"),
    [
        ("ike security-associations", "ike", "security-associations"),
        ("services ipsec-vpn ike security-associations", "ike", "security-associations"),
        ("services ipsec-vpn ipsec security-associations", "ipsec", "security-associations"),
        ("tunnels", "tunnels", "security-associations"),
        ("flow-tap", "flow-tap", "intercepts"),
        ("services flow-tap", "flow-tap", "intercepts"),
        ("dynamic-flow-capture control-source", "control-source", "control-sources"),
        ("services dynamic-flow-capture statistics", "statistics", "control-sources"),
    ],
)
def test_words_of_the_router(words: str, page: str, view: str) -> None:
    asked = read_words(words.split())
    assert (asked.page.name, asked.page.view) == (page, view)


def test_what_stands_behind() -> None:
    words = "dynamic-flow-capture control-source capture-group g source-identifier detail detail"
    asked = read_words(words.split())
    assert asked.level == "detail"
    assert asked.selectors == {"capture-group": "g", "source-identifier": "detail"}
    assert read_words(["ike", "security-associations", "2001:DB8::1", "detail"]).selectors == {
        "address": "2001:db8::1"
    }


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("", "a word is missing"),
        ("everything", "intercepts, control-sources"),
        ("ike", "show ike: a word is missing; security-associations is right"),
        ("ike sec", "'sec' is not known; security-associations"),
        ("services ipsec-vpn", "ike or ipsec is right"),
        ("services intercepts", "flow-tap, dynamic-flow-capture or ipsec-vpn"),
        ("dynamic-flow-capture criteria", "control-source, content-destination or statistics"),
        ("stats detail", "show stats: 'detail' is not known; nothing more is right"),
        ("ike security-associations brief detail", "brief and detail: one of them"),
        ("ike security-associations 192.0.2.1 192.0.2.2", "'192.0.2.2' is not known"),
        ("ipsec security-associations service-set", "service-set is followed by one name"),
        ("ipsec security-associations service-set a service-set b", "given once"),
        ("ipsec security-associations fast", "brief, detail, extensive or service-set NAME is right"),
    ],
)
def test_words_that_are_not_known(words: str, named: str) -> None:
    with pytest.raises(WordError, match=named):
        read_words(words.split())


def test_no_word_may_be_cut_short() -> None:
    for first in first_words():
        with pytest.raises(WordError):
            read_words([first[:-1]])
