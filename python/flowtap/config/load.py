"""Reads a configuration as a whole; every wrong key is named, secrets come from private files."""

from __future__ import annotations

import re
import stat
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from flowtap.config.schema import Configuration
from flowtap.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic_core import ErrorDetails

__all__ = ["LoadedConfiguration", "load", "read_secret", "refuse_written_by_others", "without_line_end"]


@dataclass(frozen=True, slots=True)
class LoadedConfiguration:
    """A valid configuration and where it lies: relative paths in it begin there."""

    path: Path
    values: Configuration

    def locate(self, name: str) -> Path:
        """The file that the configuration names."""
        return self.path.parent / name


def load(path: Path) -> LoadedConfiguration:
    """Reads and checks a configuration file.

    Raises:
        ConfigurationError: It cannot be read or is wrong; the message names every wrong key.
    """
    try:
        refuse_written_by_others(path, "")
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is not UTF-8 text", key="") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}", key="") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: is not TOML: {error}", key="") from None
    except RecursionError:
        raise ConfigurationError(f"{path}: is not TOML that can be read: nested too deeply", key="") from None
    except ValueError as error:
        # Such as a number of more digits than Python reads.
        raise ConfigurationError(f"{path}: is not TOML that can be read: {error}", key="") from None
    try:
        configuration = Configuration.model_validate(values)
    except ValidationError as error:
        faults = [_fault(each) for each in error.errors(include_url=False)]
        lines = "\n".join(f"  {key}: {reason}" if key else f"  {reason}" for key, reason in faults)
        raise ConfigurationError(f"{path}:\n{lines}", key=faults[0][0]) from None
    return LoadedConfiguration(path, configuration)


_PLAIN: Mapping[str, str] = {
    "extra_forbidden": "there is no such key",
    "missing": "is missing",
}


# Where a value may be of several types the path also names the type that was tried.
_ALTERNATIVE = re.compile(r"[\[(]|^(?:IPv[46]Address|bool|(?:constrained-)?(?:int|float))$")


def _fault(error: ErrorDetails) -> tuple[str, str]:
    key = ""
    for part in error["loc"]:
        if isinstance(part, int):
            key += f"[{part}]"
        elif not _ALTERNATIVE.search(part):
            key += f".{part}" if key else part
    reason = _PLAIN.get(error["type"], error["msg"].removeprefix("Value error, "))
    return key, reason


def refuse_written_by_others(path: Path, key: str) -> None:
    """Refuses a file that decides who may do what and that others than its owner can change.

    Raises:
        ConfigurationError: They can; the key is the one that names the file.
        OSError: There is no such file.
    """
    if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        named = f"{key}: {path}" if key else str(path)
        raise ConfigurationError(f"{named}: others can change it; chmod go-w is right", key=key)


def read_secret(configuration: LoadedConfiguration, name: str, key: str) -> bytes:
    """Reads a file that nobody else may read; one line end behind its content is cut off, and no more.

    A key may be any octets, blanks among them.

    Raises:
        ConfigurationError: It cannot be read, is empty, or others can read it.
    """
    path = configuration.locate(name)
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{key}: {path}: cannot be read: {error.strerror}", key=key) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(f"{key}: {path}: others can read it; chmod 600 is right", key=key)
    if not content.strip():
        raise ConfigurationError(f"{key}: {path}: is empty", key=key)
    return without_line_end(content)


def without_line_end(content: bytes) -> bytes:
    """What a file holds, without the one line end that an editor puts behind it."""
    return content.removesuffix(b"\r\n" if content.endswith(b"\r\n") else b"\n")
