"""Reads this host for the checks; what cannot be read says why. Nothing here changes anything."""

from __future__ import annotations

import ctypes
import gzip
import json
import os
import socket
import struct
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vici import Session
from vici.exception import CommandException, DeserializationException, SessionException

from flowtap.delivery.netfilter import PLACES, Netfilter, find_program
from flowtap.diagnosis.clock import Discipline
from flowtap.diagnosis.files import FileState
from flowtap.diagnosis.finding import Unknown
from flowtap.diagnosis.firewall import Taken, read_sockets
from flowtap.diagnosis.network import Interface
from flowtap.diagnosis.strongswan import StrongSwan
from flowtap.errors import DataPlaneError, PermissionMissingError

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from flowtap.delivery.guard import GuardPlan

__all__ = [
    "discipline",
    "file_state",
    "guard_faults",
    "interface",
    "kernel_config",
    "legacy_tables",
    "path_mtu",
    "reverse_path",
    "ruleset",
    "sockets",
    "strongswan",
    "strongswan_settings",
    "try_esp",
    "try_xfrm_interface",
]

TIMEOUT_S: Final = 10.0
_NETWORK: Final = Path("/proc/net")
_DEVICES: Final = Path("/sys/class/net")
# linux/in.h and linux/in6.h; Python's socket module has no names for them.
_IP_MTU: Final = 14
_IPV6_MTU: Final = 24
_TIMEX: Final = struct.Struct("@Illlli")
"""The beginning of struct timex: modes, offset, frequency, greatest error, estimated error, status."""
_TIMEX_OCTETS: Final = 512
"""More than all of it; that nothing is set in modes leaves the clock alone."""
_INCLUDES_MAX: Final = 1_000
_AS_ROOT: Final = "run flowtap doctor as root"


def _text(path: Path) -> str | Unknown:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        return Unknown(f"{path}: {error.strerror}")


def _run(name: str, *words: str) -> subprocess.CompletedProcess[str] | Unknown:
    program = find_program(name)
    if program is None:
        return Unknown(f"the program {name} is not installed", f"install {name}")
    try:
        return subprocess.run(  # noqa: S603 - no shell, a fixed program and words of ours
            [program, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            env={"LC_ALL": "C", "PATH": ":".join(PLACES)},
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Unknown(f"{name} has not ended within {TIMEOUT_S:.0f} s")
    except OSError as error:
        return Unknown(f"{name}: {error.strerror}")


# --- the kernel -------------------------------------------------------------------------------


def kernel_config() -> str | Unknown:
    """How the kernel was built."""
    with suppress(OSError, EOFError):
        return gzip.decompress(Path("/proc/config.gz").read_bytes()).decode(errors="replace")
    return _text(Path(f"/boot/config-{os.uname().release}"))


def _try(*words: str) -> str | Unknown:
    """What ``ip`` says in a network namespace that ends with it; empty where it worked."""
    if os.geteuid() != 0:
        return Unknown("only root can try it", _AS_ROOT)
    done = _run("unshare", "--net", "ip", *words)
    if isinstance(done, Unknown):
        return done
    said = done.stderr.strip().splitlines()
    if said and said[-1].startswith("unshare:"):
        return Unknown(f"no network namespace to try it in: {said[-1]}", _AS_ROOT)
    return "" if done.returncode == 0 else (said or [f"status {done.returncode}"])[-1]


def try_esp(version: int) -> str | Unknown:
    """Adds a state for ESP where nothing uses it."""
    one, other = ("192.0.2.1", "192.0.2.2") if version == 4 else ("2001:db8::1", "2001:db8::2")  # noqa: PLR2004
    key = "0x" + "00" * 20
    return _try(
        *("xfrm", "state", "add", "src", one, "dst", other, "proto", "esp", "spi", "0x100"),
        *("mode", "tunnel", "aead", "rfc4106(gcm(aes))", key, "128"),
    )


def try_xfrm_interface() -> str | Unknown:
    """Adds an XFRM interface where nothing uses it."""
    return _try("link", "add", "probe", "type", "xfrm", "dev", "lo", "if_id", "1")


def reverse_path(interface: str) -> dict[str, str | Unknown]:
    """The settings of the reverse-path filter."""
    place = Path("/proc/sys/net/ipv4/conf")
    return {name: _text(place / name / "rp_filter") for name in ("all", interface)}


def discipline() -> Discipline | Unknown:
    """What adjtimex(2) says of the clock, asked without changing it."""
    asked = ctypes.create_string_buffer(_TIMEX_OCTETS)
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(asked)
    except (OSError, AttributeError):
        return Unknown("this system has no adjtimex")
    if state < 0:
        return Unknown(f"adjtimex: {os.strerror(ctypes.get_errno())}")
    _, _, _, most_error_us, _, status = _TIMEX.unpack_from(asked)
    return Discipline(int(state), status, most_error_us)


# --- the network ------------------------------------------------------------------------------


def interface(name: str) -> Interface | None:
    """An interface of this network namespace."""
    place = _DEVICES / name
    try:
        flags = int((place / "flags").read_text(), 16)
        mtu_octets = int((place / "mtu").read_text())
        state = (place / "operstate").read_text().strip()
    except (OSError, ValueError):
        return None
    return Interface(flags, state, mtu_octets)


def path_mtu(
    destination: IPv4Address | IPv6Address, source: IPv4Address | IPv6Address | None = None
) -> int | Unknown:
    """What the kernel knows of the way to an address; no packet is sent."""
    family = socket.AF_INET if destination.version == 4 else socket.AF_INET6  # noqa: PLR2004 - of IP
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            if source is not None:
                with suppress(OSError):
                    asking.bind((str(source), 0))
            asking.connect((str(destination), 9))
            if family == socket.AF_INET:
                return asking.getsockopt(socket.IPPROTO_IP, _IP_MTU)
            return asking.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
    except OSError as error:
        return Unknown(error.strerror or "no route")


def sockets() -> list[Taken]:
    """Who listens; the programs' names as far as this process may see them."""
    found = []
    for protocol in ("tcp", "udp"):
        for name in (protocol, f"{protocol}6"):
            text = _text(_NETWORK / name)
            if isinstance(text, str):
                found += read_sockets(protocol, text)
    names = _programs({each.inode for each in found})
    return [
        Taken(each.protocol, each.port, each.address, each.inode, names.get(each.inode, "")) for each in found
    ]


def _programs(inodes: set[int]) -> dict[int, str]:
    """The names of the processes that hold sockets."""
    names = {}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            target = str(link.readlink())
            if target.startswith("socket:[") and (inode := int(target[8:-1])) in inodes:
                names[inode] = (link.parents[1] / "comm").read_text().strip()
    return names


def ruleset() -> dict[str, Any] | Unknown:
    """The rules of nftables in this network namespace."""
    done = _run("nft", "-j", "list", "ruleset")
    if isinstance(done, Unknown):
        return done
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[0]
        return Unknown(f"nft: {said}", "" if os.geteuid() == 0 else _AS_ROOT)
    try:
        value: dict[str, Any] = json.loads(done.stdout or "{}")
    except ValueError:
        return Unknown("nft: what it prints is no JSON")
    return value


def guard_faults(plan: GuardPlan) -> list[str] | Unknown:
    """What is wrong with the guard's rules, as they are listed now."""
    try:
        return Netfilter().verify(plan)
    except PermissionMissingError as error:
        return Unknown(str(error), _AS_ROOT)
    except DataPlaneError as error:
        return Unknown(str(error))


def legacy_tables() -> list[str]:
    """Tables of the older iptables, which nft does not list."""
    found: list[str] = []
    for name in ("ip_tables_names", "ip6_tables_names"):
        text = _text(_NETWORK / name)
        found += text.split() if isinstance(text, str) else []
    return sorted(set(found))


# --- strongSwan -------------------------------------------------------------------------------


def strongswan(path: Path) -> StrongSwan | Unknown:
    """What the daemon behind a VICI socket says of itself."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(str(path))
            session = Session(connection)
            about = session.version()
            plugins = session.stats().get("plugins", [])
            connections = session.get_conns().get("conns", [])
        except PermissionError:
            return Unknown(
                "the socket may not be opened",
                "name a group of the tap's user in strongswan.conf (charon-systemd.group), or ask as root",
            )
        except OSError as error:
            return Unknown(error.strerror or "no answer")
        except (CommandException, DeserializationException, SessionException, ValueError) as error:
            return Unknown(f"the answer is not VICI: {error}")
    return StrongSwan(
        _word(about.get("daemon", b"")),
        _word(about.get("version", b"")),
        tuple(map(_word, plugins)),
        tuple(map(_word, connections)),
    )


def _word(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def strongswan_settings(path: Path) -> str | Unknown:
    """``strongswan.conf`` with what it includes in the places where it does."""
    return _with_includes(path, [])


def _with_includes(path: Path, seen: list[Path]) -> str | Unknown:
    seen.append(path.resolve())
    text = _text(path)
    if isinstance(text, Unknown) or len(seen) > _INCLUDES_MAX:
        return text
    lines: list[str] = []
    for line in text.splitlines():
        word, _, pattern = line.strip().partition(" ")
        if word != "include" or not pattern.strip():
            lines.append(line)
            continue
        named = Path(pattern.strip().strip('"'))
        place = named if named.is_absolute() else path.parent / named
        for each in sorted(place.parent.parent.glob(f"{place.parent.name}/{place.name}")):
            if each.resolve() in seen:
                continue
            inner = _with_includes(each, seen)
            if isinstance(inner, Unknown):
                return inner
            lines.append(inner)
    return "\n".join(lines)


# --- files ------------------------------------------------------------------------------------


def file_state(path: Path) -> FileState | Unknown:
    """What the file system says of a file."""
    try:
        found = path.stat()
    except OSError as error:
        return Unknown(error.strerror or "cannot be read")
    return FileState(found.st_mode, found.st_uid, found.st_size)
