"""The configuration that comes out: sections, where every value comes from, and the files beside it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowtap.config.junos.syntax import Node

__all__ = [
    "CONFIGURATION_FILE",
    "HOST_KEY_FILE",
    "PUBLIC_HOST_KEY_FILE",
    "REPORT_FILE",
    "Draft",
    "File",
    "Setting",
    "Value",
    "key_path",
]

Value = str | int | bool | list[str]
Section = tuple[str, ...]

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_.-]")
FILE_NAME_CHARACTERS_MAX: Final = 100
CONFIGURATION_FILE: Final = "flowtap.toml"
REPORT_FILE: Final = "import-report.txt"
HOST_KEY_FILE: Final = "host_key"
PUBLIC_HOST_KEY_FILE: Final = "host_key.pub"
_RESERVED: Final = frozenset({CONFIGURATION_FILE, REPORT_FILE, HOST_KEY_FILE, PUBLIC_HOST_KEY_FILE})
"""Files that are there whatever the router was told."""

# As docs/operations.md has them.
_ORDER: Final = ("element", "login", "control_source", "content_destination", "tunnel", "dtcp", "policy")


@dataclass(frozen=True, slots=True)
class Setting:
    """One value.

    Attributes:
        value: As TOML has it.
        origins: The statements that it comes from.
        note: A comment for whoever reads the file.
        stands_in: The value is only there so that the rest can be checked; the file has none.
    """

    value: Value
    origins: tuple[Node, ...] = ()
    note: str = ""
    stands_in: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """A file beside the configuration.

    Attributes:
        content: What it holds.
        is_secret: Nobody else may read it.
    """

    content: bytes = field(repr=False)
    is_secret: bool = True


def key_path(section: Section, key: str) -> str:
    """A key as messages name it, such as ``dtcp.ssh.listen``."""
    return ".".join((*section, key))


@dataclass(slots=True)
class Draft:
    """What the output will hold.

    Attributes:
        sections: Settings by section and key.
        files: By name.
        needed: What somebody still has to do before the tap can run, in the order found.
        notes: What is different from the router, and worth knowing.
    """

    sections: dict[Section, dict[str, Setting]] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    needed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def section(self, *names: str) -> Section:
        """Makes sure that a section is there, and names it."""
        self.sections.setdefault(names, {})
        return names

    def put(self, section: Section, key: str, value: Value, *origins: Node, note: str = "") -> str:
        """Sets a key; returns its path."""
        self.sections.setdefault(section, {})[key] = Setting(value, origins, note)
        return key_path(section, key)

    def stand_in(self, section: Section, key: str, value: Value, needed: str) -> None:
        """Leaves a key to be filled in, with a value for the check of the rest."""
        self.sections.setdefault(section, {})[key] = Setting(value, stands_in=True)
        self.needed.append(needed)

    def file(self, name: str, ending: str, content: bytes, *, is_secret: bool = True) -> str:
        """Adds a file; returns its name, which no other has, whatever the configuration calls things.

        Neither has one that differs in capitals alone: not every disk tells them apart.
        """
        stem = _UNFIT.sub("_", name)[:FILE_NAME_CHARACTERS_MAX].lstrip(".-") or "_"
        chosen = f"{stem}{ending}"
        at = 2
        taken = {*_RESERVED, *map(str.lower, self.files)}
        while chosen.lower() in taken:
            chosen = f"{stem}-{at}{ending}"
            at += 1
        self.files[chosen] = File(content, is_secret=is_secret)
        return chosen

    def value(self, section: Section, key: str) -> Value | None:
        """A value that was set before."""
        setting = self.sections.get(section, {}).get(key)
        return None if setting is None else setting.value

    def toml(self, source: str, *, with_stand_ins: bool = False) -> str:
        """The configuration as text; every value says from which statement it comes."""
        head = (
            f"# Made from {_comment(source)} by flowtap config import-junos.\n"
            "# A comment such as 12:5 names the line and the column there; import-report.txt says what\n"
            "# became of every statement.\n"
        )
        return head + "".join(self._sections(with_stand_ins=with_stand_ins))

    def _sections(self, *, with_stand_ins: bool) -> Iterator[str]:
        known = {name: at for at, name in enumerate(_ORDER)}
        for names in sorted(self.sections, key=lambda names: known.get(names[0], len(known))):
            yield f"\n[{'.'.join(map(_key, names))}]\n"
            for key, setting in self.sections[names].items():
                yield _line(key, setting, with_stand_ins=with_stand_ins)


def _line(key: str, setting: Setting, *, with_stand_ins: bool) -> str:
    places = ", ".join(f"{node.line}:{node.column}" for node in setting.origins[:3])
    if len(setting.origins) > 3:  # noqa: PLR2004 - enough to find them
        places += ", ..."
    comment = "; ".join(each for each in (places, _comment(setting.note)) if each)
    text = f"{_key(key)} = {_value(setting.value)}"
    if setting.stands_in and not with_stand_ins:
        return f"# {_key(key)} =  # needed\n"
    return f"{text}  # {comment}\n" if comment else f"{text}\n"


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _string(value)
    return f"[{', '.join(map(_string, value))}]"


def _string(text: str) -> str:
    """JSON's strings are TOML's, as long as nothing is escaped as a surrogate."""
    return json.dumps(text, ensure_ascii=False)


def _comment(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
