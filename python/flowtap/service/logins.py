"""Who may log in: password hashes (Argon2) and authorised keys, read once at the start."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

import argon2
import asyncssh

from flowtap.config import read_secret, refuse_written_by_others
from flowtap.config.values import LOCKED
from flowtap.control import PERMISSION_CHANGE, PERMISSION_VIEW
from flowtap.dtcp import Key
from flowtap.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from flowtap.config import LoadedConfiguration

__all__ = ["Login", "Logins", "hash_password"]

FIXED_KEY = Key(b"Juniper")
"""The key of the vendor's clients over SSH: the login authorises, the digest only guards the text."""

_HASHER = argon2.PasswordHasher()
_VERIFIERS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="password")
"""Each password takes 64 MiB and a processor for a while; whoever guesses keeps nothing else waiting."""
_ALL = frozenset({PERMISSION_VIEW, PERMISSION_CHANGE})
"""What ``all`` stands for: never to task, never to approve."""


def hash_password(password: str) -> str:
    """The hash that a password hash file holds."""
    return _HASHER.hash(password)


@dataclass(frozen=True, slots=True)
class Login:
    """One user.

    Attributes:
        name: The login's name.
        uid: The local user who is it, for the local socket; None where there is none.
        permissions: Those of its class.
        password_hash: Argon2, None where there is no password, or none that is right.
        authorized_keys: Public keys that may log in, None where there are none.
        keys_text: What those keys were read from; two readings of the same text are equal.
    """

    name: str
    uid: int | None
    permissions: frozenset[str]
    password_hash: str | None = field(repr=False)
    authorized_keys: asyncssh.SSHAuthorizedKeys | None = field(compare=False)
    keys_text: str = field(default="", repr=False)


class Way(Protocol):
    """A tunnel, as far as tasking depends on it."""

    @property
    def is_open(self) -> bool:
        """Whether it is up."""


NO_WAYS: Final[Mapping[str, Way]] = MappingProxyType({})


class Logins:
    """All users of a configuration.

    Args:
        configuration: Names them and their files.
        ways: The tunnels by name; one that is not there is never open.

    Raises:
        ConfigurationError: A file cannot be used.
    """

    def __init__(self, configuration: LoadedConfiguration, ways: Mapping[str, Way] = NO_WAYS) -> None:
        self._ways = ways
        self._tunnels = {
            name: (source.tunnel, tuple(configuration.values.tunnel[source.tunnel].remote_networks))
            for name, source in configuration.values.control_source.items()
            if source.tunnel is not None
        }
        self._logins = {name: _login(configuration, name) for name in configuration.values.login.user}
        self._keys = {name: _key(configuration, name) for name in configuration.values.control_source}
        self._addresses = {
            name: tuple(source.addresses) for name, source in configuration.values.control_source.items()
        }
        self._uids = {login.uid: login for login in self._logins.values() if login.uid is not None}
        # Somebody unknown must not be told apart by the time that a refusal takes.
        self._nobody = hash_password(secrets.token_hex(16))

    def get(self, name: str) -> Login | None:
        """The user of that name."""
        return self._logins.get(name)

    @property
    def names(self) -> Collection[str]:
        """All users."""
        return self._logins.keys()

    def of_uid(self, uid: int) -> Login | None:
        """The user who is that local user."""
        return self._uids.get(uid)

    def may_come_from(self, csource_id: str, address: IPv4Address | IPv6Address) -> bool:
        """Whether a control source is expected at an address; anywhere by default [DTCP §3.1].

        One that comes through a tunnel is expected behind it.
        """
        networks: Iterable[IPv4Network | IPv6Network] = self._addresses.get(csource_id, ())
        _, behind = self._tunnels.get(csource_id, (None, None))
        return (not networks or any(address in network for network in networks)) and (
            behind is None or any(address in network for network in behind)
        )

    def may_be_heard(self, csource_id: str) -> bool:
        """Whether what a control source says can have come the way that it must come, now."""
        tunnel, _ = self._tunnels.get(csource_id, (None, None))
        if tunnel is None:
            return True
        way = self._ways.get(tunnel)
        return way is not None and way.is_open

    def objection(self, csource_id: str, address: IPv4Address | IPv6Address) -> str | None:
        """Why nothing of a control source is heard from an address now; None where it is."""
        if not self.may_be_heard(csource_id):
            return "the tunnel that it must come through is down"
        return None if self.may_come_from(csource_id, address) else "not one of its addresses"

    def key_for(self, csource_id: str) -> Key | None:
        """The DTCP secret of a control source; None where there is none."""
        return self._keys.get(csource_id)

    def own_key_for(self, csource_id: str) -> Key | None:
        """The same, where it is not the vendor's fixed one: that proves nothing without a login."""
        key = self._keys.get(csource_id)
        return None if key is FIXED_KEY else key

    async def check_password(self, name: str, password: str) -> bool:
        """Whether the password is right; takes as long for a name that does not exist."""
        login = self._logins.get(name)
        password_hash = login.password_hash if login is not None else None
        loop = asyncio.get_running_loop()
        is_right = await loop.run_in_executor(_VERIFIERS, _verify, password_hash or self._nobody, password)
        return is_right and bool(password_hash)


def _verify(password_hash: str, password: str) -> bool:
    try:
        return _HASHER.verify(password_hash, password)
    except argon2.exceptions.VerificationError:
        return False


def _login(configuration: LoadedConfiguration, name: str) -> Login:
    user = configuration.values.login.user[name]
    where = f"login.user.{name}"
    password_hash = None
    if user.password_hash_file is not None:
        key = f"{where}.password_hash_file"
        content = read_secret(configuration, user.password_hash_file, key)
        password_hash = _password_hash(content.decode("utf-8", "replace").strip(), key)
    authorized_keys, keys_text = None, ""
    if user.authorized_keys_file is not None:
        key = f"{where}.authorized_keys_file"
        path = configuration.locate(user.authorized_keys_file)
        try:
            refuse_written_by_others(path, key)
            keys_text = path.read_text(encoding="utf-8")
            authorized_keys = asyncssh.import_authorized_keys(keys_text)
        except OSError as error:
            raise ConfigurationError(f"{key}: {path}: cannot be read: {error.strerror}", key=key) from None
        except ValueError:
            raise ConfigurationError(f"{key}: {path}: is no authorized_keys file", key=key) from None
    permissions = frozenset[str](configuration.values.login.classes[user.login_class].permissions)
    if "all" in permissions:
        permissions = permissions - {"all"} | _ALL
    return Login(name, user.uid, permissions, password_hash, authorized_keys, keys_text)


def _password_hash(text: str, key: str) -> str | None:
    """A hash to check against; None where the login is locked."""
    if text == LOCKED:
        return None
    try:
        argon2.extract_parameters(text)
    except argon2.exceptions.InvalidHashError:
        raise ConfigurationError(f"{key}: holds no Argon2 hash", key=key) from None
    return text


def _key(configuration: LoadedConfiguration, name: str) -> Key:
    key_file = configuration.values.control_source[name].key_file
    if key_file is None:
        return FIXED_KEY
    return Key(read_secret(configuration, key_file, f"control_source.{name}.key_file"))
