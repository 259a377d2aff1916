"""Checks of the files that a configuration names: who may read and who may change them."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowtap.diagnosis.finding import Finding, Unknown, fail, ok, unknown, warn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from flowtap.config import LoadedConfiguration

__all__ = ["FileState", "folder", "named_files", "one_owner", "private", "trusted"]

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class FileState:
    """What stat(2) says of a file."""

    mode: int
    uid: int
    size_octets: int


def named_files(configuration: LoadedConfiguration) -> Iterator[tuple[str, Path, bool]]:
    """The files that a configuration names: key, path, and whether it is a secret."""
    values = configuration.values
    names = [("dtcp.ssh.host_key_file", values.dtcp.ssh.host_key_file, True)]
    for name, user in values.login.user.items():
        names.append((f"login.user.{name}.password_hash_file", user.password_hash_file or "", True))
        names.append((f"login.user.{name}.authorized_keys_file", user.authorized_keys_file or "", False))
    for name, each in values.control_source.items():
        names.append((f"control_source.{name}.key_file", each.key_file or "", True))
    for name, tunnel in values.tunnel.items():
        for key, is_secret in (
            ("pre_shared_key_file", True),
            ("private_key_file", True),
            ("certificate_file", False),
            ("authority_file", False),
        ):
            names.append((f"tunnel.{name}.{key}", getattr(tunnel, key) or "", is_secret))
    names.append(("spool.key_file", values.spool.key_file or "", True))
    for key, name, is_secret in names:
        if name:
            yield key, configuration.locate(name), is_secret


def private(key: str, path: Path, found: FileState | Unknown) -> Finding:
    """A file that nobody else may read."""
    if isinstance(found, Unknown):
        return fail("secret", f"{key}: {path}: {found.why}", "put the secret there, with mode 0600")
    if found.mode & _OTHERS:
        return fail("secret", f"{key}: {path}: others can read it ({_mode(found)})", f"chmod 600 {path}")
    if not found.size_octets:
        return fail("secret", f"{key}: {path}: is empty", "put the secret there")
    return ok("secret", f"{key}: {path}: is its owner's alone")


def trusted(key: str, path: Path, found: FileState | Unknown) -> Finding:
    """A file that nobody else may change."""
    if isinstance(found, Unknown):
        return fail("file", f"{key}: {path}: {found.why}", "correct its name, or put it there")
    if found.mode & _OTHERS_WRITE:
        return fail("file", f"{key}: {path}: others can change it ({_mode(found)})", f"chmod go-w {path}")
    return ok("file", f"{key}: {path}: only its owner can change it")


def folder(path: Path, found: FileState | Unknown) -> Finding:
    """The folder of the configuration."""
    if isinstance(found, Unknown):
        return unknown("folder", found, str(path))
    if found.mode & _OTHERS_WRITE:
        return fail(
            "folder",
            f"{path}: others can put files there, or take them away ({_mode(found)})",
            f"chmod 700 {path}",
        )
    if found.mode & _OTHERS:
        return warn("folder", f"{path}: others can look into it ({_mode(found)})", f"chmod 700 {path}")
    return ok("folder", f"{path}: is its owner's alone")


def one_owner(path: Path, found: FileState, secrets: Sequence[tuple[Path, FileState]]) -> Finding:
    """Whether whoever owns the folder, and so runs the tap, can read the secrets in it."""
    foreign = [each for each, state in secrets if state.uid != found.uid]
    if foreign and found.uid:
        return fail(
            "owner",
            f"{path} belongs to uid {found.uid}, but not {', '.join(map(str, foreign))}",
            f"chown {found.uid} {' '.join(map(str, foreign))}",
        )
    return ok("owner", f"{path} and the secrets in it fit uid {found.uid}")


def _mode(found: FileState) -> str:
    return f"{stat.S_IMODE(found.mode):04o}"
