"""``system login`` and the server of ``system services flow-tap-dtcp``: who may log in, and how often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import asyncssh

from flowtap.config.junos.secrets import is_crypt_hash
from flowtap.config.values import LOCKED

if TYPE_CHECKING:
    from flowtap.config.junos.draft import Draft
    from flowtap.config.junos.reader import Reader
    from flowtap.config.junos.syntax import Node

__all__ = ["TASK", "map_login", "map_ssh"]

TASK: Final = "flow-tap-operation"
_PERMISSIONS: Final = ("flow-tap", "flow-tap-control", TASK)
_PREDEFINED: Final = frozenset({"super-user", "superuser", "operator", "read-only", "unauthorized"})
_KEYS: Final = ("ssh-rsa", "ssh-ecdsa", "ssh-ed25519")
_UID_LOW, _UID_HIGH = 100, 64_000
_USER_DEPTH: Final = len(("system", "login", "user", "NAME"))
_USERS_MAX: Final = 1_000
_NAMES_SHOWN: Final = 5
_LIMIT_HIGH: Final = 250
_NOT_ALL: Final = (
    "all never contains flow-tap-operation; who shall look at the tap or change it gets flow-tap or"
    " flow-tap-control by name"
)


def map_login(reader: Reader, draft: Draft, login: Node | None) -> list[str]:
    """Imports the classes that have a flow-tap permission, and their users.

    Returns:
        The users who may task.
    """
    if login is None:
        return []
    granted = {
        node.word: permissions
        for node in reader.children(reader.child(login, "class"))
        if (permissions := _class(reader, draft, node))
    }
    tasking = []
    uids: dict[int, str] = {}
    count = 0
    for node in reader.children(reader.child(login, "user")):
        user = _User(reader, draft, node, granted)
        if user.is_imported(reader.child(login, "class")):
            count += 1
            if count > _USERS_MAX:
                reader.ledger.fault(node, f"more than {_USERS_MAX:,} users; fewer are right")
                break
            user.map(uids)
            if TASK in user.permissions:
                tasking.append(node.word)
    _say_uids(draft, uids)
    reader.ledger.ignored(login, "is about logins to the router itself")
    return tasking


def _say_uids(draft: Draft, uids: dict[int, str]) -> None:
    """Numbers of the router's users may belong to others on this system, who would get their permissions."""
    if uids:
        named = [f"{name} {number}" for number, name in list(uids.items())[:_NAMES_SHOWN]]
        more = f" and {len(uids) - _NAMES_SHOWN} more" if len(uids) > _NAMES_SHOWN else ""
        draft.notes.append(
            "login: who has the uid of a login on this host has its permissions over the local socket; take"
            f" uid out where that is somebody else: {', '.join(named)}{more}"
        )


def _class(reader: Reader, draft: Draft, node: Node) -> list[str]:
    ledger = reader.ledger
    given = reader.children(reader.child(node, "permissions"))
    wanted = [each for each in given if each.word in _PERMISSIONS]
    for each in given:
        if each not in wanted:
            ledger.ignored(each, _NOT_ALL if each.word == "all" else "is about the router itself")
    if not wanted:
        ledger.ignored(node, "the class has no flow-tap permission")
        return []
    name = reader.name(node)
    if name is None:
        return []
    section = draft.section("login", "class", name)
    permissions = [each.word for each in wanted]
    target = draft.put(section, "permissions", permissions, *wanted)
    for each in wanted:
        if each.children:
            ledger.fault(next(each.leaves()), f"nothing stands behind the permission {each.word}")
        ledger.mapped(each, target)
    if TASK in permissions and len(permissions) > 1:
        draft.notes.append(
            f"login.class.{name}: who tasks may also look at the tap or change it, as on the router;"
            f" {TASK} alone is enough to task"
        )
    ledger.ignored(node, "a permission of flow-tap has no further conditions here")
    return permissions


class _User:
    """One user, as far as it is imported."""

    def __init__(self, reader: Reader, draft: Draft, node: Node, granted: dict[str, list[str]]) -> None:
        self._reader = reader
        self._ledger = reader.ledger
        self._draft = draft
        self._node = node
        self._granted = granted
        self._class = reader.one(node, "class")
        self.permissions = granted.get(self._class.word, []) if self._class is not None else []

    def is_imported(self, classes: Node | None) -> bool:
        """Whether the user has anything to do with flow-tap."""
        if self._class is None:
            for leaf in self._node.leaves():
                if not leaf.inactive and "class" in leaf.path[_USER_DEPTH + 1 : -1]:
                    # A semicolon is missing, and a user would be lost by it.
                    reason = (
                        "class stands behind the value of something else; a statement of its own is right"
                    )
                    self._ledger.fault(leaf, reason)
            self._ledger.ignored(self._node, "the user has no class, and so no flow-tap permission")
        elif self.permissions:
            return True
        elif self._class.word in _PREDEFINED or self._reader.child(classes, self._class.word) is not None:
            self._ledger.ignored(self._node, "the user's class has no flow-tap permission")
        else:
            self._ledger.fault(self._class, f"there is no class {self._class.word!r}")
        return False

    def map(self, uids: dict[int, str]) -> None:
        """Writes the user's section, and the files with the keys and the hash."""
        node, reader, ledger = self._node, self._reader, self._ledger
        name = reader.name(node)
        if name is None or self._class is None:
            return
        section = self._draft.section("login", "user", name)
        ledger.mapped(self._class, self._draft.put(section, "class", self._class.word, self._class))
        if (uid := reader.number(node, "uid", _UID_LOW, _UID_HIGH)) is not None:
            place, number = uid
            if number in uids:
                ledger.fault(place, f"uid: {uids[number]} has it too; every user needs one of his own")
            uids[number] = name
            ledger.mapped(place, self._draft.put(section, "uid", number, place))
        authentication = reader.child(node, "authentication")
        has_keys = self._keys(section, name, authentication)
        self._password(section, name, authentication, has_keys=has_keys)
        if authentication is not None:
            ledger.unmapped(authentication, "logins have passwords and public keys only")
        ledger.ignored(node, "says nothing about what the user may do")

    def _keys(self, section: tuple[str, ...], name: str, authentication: Node | None) -> bool:
        lines, origins = [], []
        for kind in _KEYS:
            for key in self._reader.children(self._reader.child(authentication, kind)):
                line = self._authorized(kind, key)
                if line is not None:
                    lines.append(line)
                    origins.append(key)
        weak = self._reader.child(authentication, "ssh-dsa")
        if weak is not None:
            self._ledger.unmapped(weak, "DSA keys are no longer accepted; an ed25519 key is right")
        if not lines:
            return False
        file = self._draft.file(
            name, ".pub", "".join(f"{line}\n" for line in lines).encode(), is_secret=False
        )
        target = self._draft.put(section, "authorized_keys_file", file, *origins)
        for key in origins:
            self._ledger.mapped(key, target)
        return True

    def _authorized(self, kind: str, key: Node) -> str | None:
        try:
            asyncssh.import_public_key(key.word)
        except asyncssh.KeyImportError:
            self._ledger.fault(
                key, f"is no public key; '{kind} AAAA... comment' inside quotation marks is right"
            )
            return None
        text = " ".join(key.word.split())
        patterns = self._reader.children(self._reader.child(key, "from"))
        if others := [each for each in self._reader.children(key) if each.word != "from"]:
            self._ledger.unmapped(key, f"{others[0].word} bounds the key in a way that is not known here")
            return None
        if not patterns:
            return text
        hosts = ",".join(each.word for each in patterns)
        if '"' in hosts or not hosts.isprintable():
            self._ledger.fault(patterns[0], "from: names and addresses with * and ? are right")
            return None
        return f'from="{hosts}" {text}'

    def _password(
        self, section: tuple[str, ...], name: str, authentication: Node | None, *, has_keys: bool
    ) -> None:
        """No password can be taken over: nothing makes an Argon2 hash out of what JUNOS keeps."""
        in_clear = self._reader.one(authentication, "plain-text-password-value")
        given = self._reader.one(authentication, "encrypted-password") or in_clear
        if given is None and has_keys:
            return
        file = self._draft.file(name, ".hash", f"{LOCKED}\n".encode())
        origins = [given] if given is not None else []
        target = self._draft.put(section, "password_hash_file", file, *origins, note="locked")
        if given is None:
            why = "has neither password nor key"
        elif is_crypt_hash(given.word):
            why = "has a hash of crypt(3), which cannot be turned into one of Argon2"
            self._ledger.mapped(given, target, f"{why}; the password is locked until it is set anew")
        else:
            why = "has a password that is no hash of crypt(3)"
            self._ledger.mapped(given, target, f"{why}; the password is locked until it is set anew")
        also = "; the keys work meanwhile" if has_keys else ""
        self._draft.needed.append(
            f"login.user.{name} {why} and is locked{also}:"
            f" flowtap config set-password {name} --config flowtap.toml"
        )


def map_ssh(reader: Reader, draft: Draft, services: Node | None) -> None:
    """Imports the limits of the server that tasking comes to."""
    server = reader.child(services, "flow-tap-dtcp")
    section = draft.section("dtcp", "ssh")
    ssh = reader.child(server, "ssh")
    for word, key in (("connection-limit", "connection_limit"), ("rate-limit", "rate_limit")):
        if (limit := reader.number(ssh, word, 1, _LIMIT_HIGH)) is not None:
            place, number = limit
            reader.ledger.mapped(place, draft.put(section, key, number, place))
    if server is not None and not any(each.children for each in (server, ssh) if each is not None):
        reader.ledger.ignored(server, "DTCP over SSH is always on")
    if ssh is not None and not ssh.children:
        reader.ledger.ignored(ssh, "DTCP over SSH is always on")
    alone = reader.child(services, "dtcp-only")
    if alone is not None:
        reader.ledger.unmapped(alone, "there are no subscribers here that tasking could be bound to")
