"""The words behind ``flowtap show``: our own pages, and those that a router has, in the router's words."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["OWN_PAGES", "Asked", "Page", "WordError", "first_words", "read_words"]

OWN_PAGES: Final = ("intercepts", "control-sources", "content-destinations", "sessions", "stats", "status")
"""Pages that have the name of the view that they show."""


_ASSOCIATIONS: Final = "security-associations"


class WordError(Exception):
    """A word that is not known in its place; the message says which are."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its name, the view of the tap that it shows, and the words that may stand behind it."""

    name: str
    view: str
    levels: tuple[str, ...] = ()
    selectors: tuple[str, ...] = ()
    """Words with a value behind them."""
    takes_address: bool = False
    """Whether an address alone selects the other side."""

    @property
    def rows(self) -> str:
        """What the list in the view's answer is called."""
        return "tunnels" if self.view == _ASSOCIATIONS else self.view.replace("-", "_")


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants to see."""

    page: Page
    level: str = ""
    selectors: Mapping[str, str] = field(default_factory=dict)


_IKE: Final = Page("ike", _ASSOCIATIONS, ("brief", "detail"), takes_address=True)
_IPSEC: Final = Page("ipsec", _ASSOCIATIONS, ("brief", "detail", "extensive"), ("service-set",))
_CAPTURE: Final = {
    "control-source": Page(
        "control-source", "control-sources", ("detail", "terse"), ("capture-group", "source-identifier")
    ),
    "content-destination": Page(
        "content-destination",
        "content-destinations",
        ("detail", "terse"),
        ("capture-group", "destination-identifier"),
    ),
    "statistics": Page("statistics", "control-sources", (), ("capture-group",)),
}
_FLOW_TAP: Final = Page("flow-tap", "intercepts", ("detail", "terse"), ("source-identifier",))
_PAGES: Final[Mapping[tuple[str, ...], Page]] = {
    **{(name,): Page(name, name) for name in OWN_PAGES},
    ("tunnels",): Page("tunnels", _ASSOCIATIONS),
    ("flow-tap",): _FLOW_TAP,
    ("services", "flow-tap"): _FLOW_TAP,
    **{("dynamic-flow-capture", name): page for name, page in _CAPTURE.items()},
    **{("services", "dynamic-flow-capture", name): page for name, page in _CAPTURE.items()},
    ("ike", _ASSOCIATIONS): _IKE,
    ("ipsec", _ASSOCIATIONS): _IPSEC,
    ("services", "ipsec-vpn", "ike", _ASSOCIATIONS): _IKE,
    ("services", "ipsec-vpn", "ipsec", _ASSOCIATIONS): _IPSEC,
}


def first_words() -> tuple[str, ...]:
    """What may stand first."""
    return _next_words(())


def _next_words(before: tuple[str, ...]) -> tuple[str, ...]:
    depth = len(before)
    found = [words[depth] for words in _PAGES if words[:depth] == before and len(words) > depth]
    return tuple(dict.fromkeys(found))


def read_words(words: Sequence[str]) -> Asked:
    """Reads what stands behind ``show``.

    Raises:
        WordError: A word is not known there, or one is missing.
    """
    path: tuple[str, ...] = ()
    for word in words:
        if path in _PAGES:
            break
        if word not in _next_words(path):
            raise WordError(f"{_named(path)}: {word!r} is not known; {_listed(_next_words(path))} is right")
        path = (*path, word)
    if path not in _PAGES:
        raise WordError(f"{_named(path)}: a word is missing; {_listed(_next_words(path))} is right")
    return _read_rest(path, words[len(path) :])


def _read_rest(path: tuple[str, ...], words: Sequence[str]) -> Asked:
    page = _PAGES[path]
    level = ""
    selectors: dict[str, str] = {}
    remaining = iter(words)
    for word in remaining:
        if word in page.levels:
            if level:
                raise WordError(f"{_named(path)}: {level} and {word}: one of them is right")
            level = word
        elif word in page.selectors:
            value = next(remaining, None)
            if value is None or word in selectors:
                raise WordError(f"{_named(path)}: {word} is followed by one name, and given once")
            selectors[word] = value
        elif page.takes_address and "address" not in selectors and _is_address(word):
            selectors["address"] = str(ip_address(word))
        else:
            known = [
                *page.levels,
                *(f"{each} NAME" for each in page.selectors),
                *(["ADDRESS"] if page.takes_address else []),
            ]
            right = f"{_listed(known)} is right" if known else "nothing more is right"
            raise WordError(f"{_named(path)}: {word!r} is not known; {right}")
    return Asked(page, level, selectors)


def _is_address(word: str) -> bool:
    try:
        ip_address(word)
    except ValueError:
        return False
    return True


def _named(path: tuple[str, ...]) -> str:
    return " ".join(("show", *path))


def _listed(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
