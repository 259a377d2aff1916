"""The output: a folder that is there as a whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncssh

from flowtap.config.junos.draft import (
    CONFIGURATION_FILE,
    HOST_KEY_FILE,
    PUBLIC_HOST_KEY_FILE,
    REPORT_FILE,
)
from flowtap.config.load import load
from flowtap.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowtap.config.junos.importing import Import
    from flowtap.config.junos.tokens import JunosError

__all__ = ["FolderError", "check", "report_object", "report_of_error", "report_text", "write"]

NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class FolderError(ConfigurationError):
    """The output folder cannot be written there."""


def check(imported: Import) -> list[str]:
    """What flowtap itself says to the configuration, with everything filled in that is still needed."""
    with tempfile.TemporaryDirectory(prefix="flowtap-import-") as place:
        path = Path(place) / CONFIGURATION_FILE
        _file(path, imported.draft.toml("a draft", with_stand_ins=True).encode(), is_secret=True)
        try:
            load(path)
        except ConfigurationError as error:
            return [
                line.strip().removeprefix(f"{path}: ") for line in str(error).splitlines()[1:] or [str(error)]
            ]
    return []


def write(imported: Import, source: str, target: Path, *, replace: bool) -> Path | None:
    """Writes the folder under another name and moves it, so that a failure leaves nothing half.

    Args:
        imported: What to write.
        source: Where it comes from, for comments.
        target: The folder.
        replace: A folder with files in it may be there; it is kept under another name.

    Returns:
        Where the former folder is now; None where there was none with files in it.

    Raises:
        FolderError: There are files, and they are not to be replaced, or there is no such place.
        OSError: The disk refuses.
    """
    target = target.resolve()
    is_taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if is_taken and not (replace and target.is_dir()):
        raise FolderError(f"{target}: has files; another folder, or --replace, is right", key="")
    if not target.parent.is_dir():
        raise FolderError(f"{target.parent}: there is no such folder; make it first", key="")
    place = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _fill(place, imported, source)
        former = _put_aside(target) if is_taken else None
        try:
            place.rename(target)
        except OSError:
            if former is not None:
                former.rename(target)
            raise
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return former


def _put_aside(target: Path) -> Path:
    """A folder may hold an audit log by now, which no import may destroy."""
    at = 1
    while (former := target.with_name(f"{target.name}.{at}")).exists():
        at += 1
    target.rename(former)
    return former


def _fill(place: Path, imported: Import, source: str) -> None:
    draft = imported.draft
    _file(place / CONFIGURATION_FILE, draft.toml(source).encode(), is_secret=False)
    for name, file in draft.files.items():
        _file(place / name, file.content, is_secret=file.is_secret)
    key = asyncssh.generate_private_key("ssh-ed25519")
    _file(place / HOST_KEY_FILE, key.export_private_key(), is_secret=True)
    public = " ".join(key.export_public_key().decode().split()[:2]) + "\n"
    _file(place / PUBLIC_HOST_KEY_FILE, public.encode(), is_secret=False)
    _file(place / REPORT_FILE, report_text(imported, source).encode(), is_secret=False)


def _file(path: Path, content: bytes, *, is_secret: bool) -> None:
    with os.fdopen(_open_new(path), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o600 if is_secret else 0o644)


def _open_new(path: Path) -> int:
    return os.open(path, NEW_FILE, 0o600)


def report_text(imported: Import, source: str) -> str:
    """Every statement with its place and what became of it, for a person."""
    lines = [f"Import of {source}", ""]
    for heading, texts in (("Still needed", imported.draft.needed), ("To know", imported.draft.notes)):
        if texts:
            lines += [f"{heading}:", *(f"  * {text}" for text in texts), ""]
    counts = _counts(imported)
    lines += [", ".join(f"{number} {outcome}" for outcome, number in counts.items()), ""]
    for entry in imported.entries:
        what = f" -> {entry.target}" if entry.target is not None else ""
        why = f": {entry.reason}" if entry.reason is not None else ""
        lines.append(f"{entry.line}:{entry.column}: {entry.outcome}{what}{why}")
        lines.append(f"    {entry.statement}")
    return "".join(f"{line}\n" for line in lines)


def _counts(imported: Import) -> Mapping[str, int]:
    counts = dict.fromkeys(("mapped", "ignored", "unmapped"), 0)
    for entry in imported.entries:
        counts[entry.outcome] += 1
    return counts


def report_object(imported: Import, source: str) -> dict[str, Any]:
    """The same for a program."""
    return {
        "source": source,
        "form": imported.form,
        "counts": _counts(imported),
        "faults": [
            {"line": each.line, "column": each.column, "statement": each.statement, "reason": each.reason}
            for each in imported.faults
        ],
        "needed": imported.draft.needed,
        "notes": imported.draft.notes,
        "statements": [
            {
                "line": each.line,
                "column": each.column,
                "statement": each.statement,
                "outcome": each.outcome,
                "target": each.target,
                "reason": each.reason,
            }
            for each in imported.entries
        ],
    }


def report_of_error(error: JunosError, source: str) -> dict[str, Any]:
    """The same where the text could not be read at all."""
    return {
        "source": source,
        "form": None,
        "counts": dict.fromkeys(("mapped", "ignored", "unmapped"), 0),
        "faults": [{"line": error.line, "column": error.column, "statement": None, "reason": error.reason}],
        "needed": [],
        "notes": [],
        "statements": [],
    }
