"""Requests from octets: grammar, then what every method demands [DTCP §5, App. A, App. B].

What the text says wrongly ends in a `SyntaxFault` with the code that answers it; whether the request
may be served at all is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from flowtap.dtcp import grammar
from flowtap.dtcp.delivery import read_deliveries
from flowtap.dtcp.grammar import SyntaxFault
from flowtap.dtcp.messages import (
    AddRequest,
    DeleteRequest,
    Delivery,
    FilterText,
    IdRange,
    ListRequest,
    NoopRequest,
    Parameter,
    RefreshRequest,
    Request,
    Scope,
    Timeouts,
    Version,
)
from flowtap.dtcp.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowtap.dtcp.limits import Limits

__all__ = [
    "ADD_FLAGS",
    "FILTER_PARAMETERS",
    "TIMEOUT_PARAMETERS",
    "VERSIONS",
    "Envelope",
    "add_parts",
    "flags",
    "open_envelope",
    "parse_request",
    "priority",
]

VERSIONS: Final = (Version(0, 6), Version(0, 7), Version(0, 8))
"""The versions served [DTCP §5.1]; anything else is answered 505."""

FILTER_PARAMETERS: Final[Mapping[str, str]] = {
    "source-address": "source",
    "dest-address": "destination",
    "protocol": "protocol",
    "source-port": "source_port",
    "dest-port": "destination_port",
    "icmp-type": "icmp_type",
    "icmp-code": "icmp_code",
}
TIMEOUT_PARAMETERS: Final[Mapping[str, str]] = {
    "timeout-idle": "idle_s",
    "timeout-total": "total_s",
    "timeout-packets": "packets",
    "timeout-bytes": "octets",
}
_ENVELOPE: Final = frozenset({"csource-id", "seq", "authentication-info"})
_NEEDED: Final = ("csource-id", "seq")
_NAMED: Final = max(map(len, _NEEDED))
_BY_METHOD: Final[Mapping[str, frozenset[str]]] = {
    "ADD": frozenset(
        # The vendor's own IPVersion stands without "X-".
        {*FILTER_PARAMETERS, *TIMEOUT_PARAMETERS, "action", "priority", "flags", "cdest-id", "ipversion"}
    ),
    "DELETE": frozenset({"criteria-id", "cdest-id", "flags"}),
    "REFRESH": frozenset({*TIMEOUT_PARAMETERS, "criteria-id", "cdest-id"}),
    "LIST": frozenset({"criteria-id", "cdest-id", "flags"}),
    "NOOP": frozenset({"flags"}),
}

DAY_S: Final = 86_400
ADD_FLAGS: Final = frozenset({"static", "sendasync"})
# The prose says "All" where the grammar says "Both" [DTCP §5.11].
_LIST_FLAGS: Final = frozenset({"stats", "criteria", "both", "all"})
_TIMEOUT_HIGHEST: Final = {
    "idle_s": DAY_S,
    "total_s": DAY_S,
    "packets": 2**64 - 1,
    "octets": 2**64 - 1,
}

_EVERYWHERE: Final = Scope()
"""Shared, as most intercepts have it."""

# Longer than any limit: what is too large is told apart from what is no number.
_ANY_NUMBER: Final = 10**40 - 1

_DESTINATIONS_MAX: Final = 2
_IPV6_SINCE: Final = Version(0, 7)
"""Before it the protocol had IPv4 addresses only [DTCP App. A]."""
_CIRCUITS_SINCE: Final = Version(0, 8)
# An ADD for one subscriber, whom the vendor's routers know by these, would be wider without them.
_SUBSCRIBER: Final = frozenset(
    {
        *("x-interface-id", "x-username", "x-act-sess-id", "x-ip-addr", "x-call-sta-id", "x-nas-port-id"),
        *("x-rm-circuit-id", "x-logical-system", "x-router-instance"),
    }
)
_INTERFACES_MAX: Final = 8
"""Interfaces of one parameter [DTCP App. B]."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a request needs before anything else is looked at: who, which, and the parameters."""

    start_line: str
    csource_id: str
    seq: str
    lines: tuple[str, ...]
    """Those of the parameters, not read yet."""

    def parameters(self) -> tuple[Parameter, ...]:
        """All of them; a line that is none stands with an empty name."""
        return tuple(_parameter(line, at) for at, line in enumerate(self.lines, start=2))


def _parameter(line: str, at: int) -> Parameter:
    try:
        return grammar.parameter(line, at)
    except SyntaxFault:
        # Reported when the method is known.
        return Parameter("", line, at)


def open_envelope(text: bytes, limits: Limits) -> Envelope:
    """Finds Csource-ID and Seq, without which a request cannot be authenticated [DTCP §4.4].

    Nobody vouches for the message yet, so that nothing else of it is read.

    Args:
        text: The message up to its Authentication-Info line.
        limits: Bounds for names and lines.

    Raises:
        SyntaxFault: One is missing or unreadable.
    """
    start_line, *lines = grammar.split_lines(text.rstrip(b"\r\n"))
    found: dict[str, Parameter] = {}
    for at, line in enumerate(lines, start=2):
        if line[:_NAMED].lower().startswith(_NEEDED):
            given = _parameter(line, at)
            # Of parameters that are given twice the first one counts [DTCP §5].
            found.setdefault(given.name.lower(), given)
    for name in ("Csource-ID", "Seq"):
        if name.lower() not in found:
            raise SyntaxFault(f"{name} is missing")
    seq = found["seq"]
    grammar.number(seq, grammar.ID_MAX)
    csource_id = grammar.name_list(found["csource-id"], limits)
    if len(csource_id) != 1:
        raise SyntaxFault("Csource-ID: one name is right")
    return Envelope(start_line, csource_id[0], seq.value, tuple(lines))


def parse_request(envelope: Envelope, limits: Limits) -> Request:
    """Reads an authentic request.

    Raises:
        SyntaxFault: It is wrong; the status says how it is answered.
    """
    method, version = grammar.request_line(envelope.start_line)
    if version not in VERSIONS:
        raise SyntaxFault(
            f"version {version} is not served; DTCP/0.6, DTCP/0.7 and DTCP/0.8 are",
            status=Status.VERSION_NOT_SUPPORTED,
        )
    if method not in _BY_METHOD:
        info = f"method {method} is not implemented; ADD, DELETE, REFRESH, LIST and NOOP are"
        raise SyntaxFault(info, status=Status.NOT_IMPLEMENTED)
    given = _collect(method, envelope.parameters())
    return _PARSERS[method](version, envelope, given, limits)


def _collect(method: str, parameters: Sequence[Parameter]) -> dict[str, Parameter]:
    """Parameters by lower-case name, all known to the method; the first of a name counts [DTCP §5]."""
    collected: dict[str, Parameter] = {}
    for given in parameters:
        name = given.name.lower()
        if not name:
            offending = Parameter(grammar.OFFENDING_LINE, given.value, given.line)
            raise SyntaxFault(f"line {given.line}: a parameter has the form Name: value", offending)
        if name in _ENVELOPE:
            continue
        # Extensions that are not known are discarded without error [DTCP §6.3].
        if name not in _BY_METHOD[method] and not name.startswith("x-"):
            info = f"line {given.line}: {method} has no parameter {given.name}"
            raise SyntaxFault(info, given)
        collected.setdefault(name, given)
    return collected


def flags(given: Mapping[str, Parameter], allowed: frozenset[str]) -> frozenset[str]:
    """Reads Flags, in lower case; none where they are not given.

    Raises:
        SyntaxFault: One is not allowed.
    """
    parameter = given.get("flags")
    if parameter is None:
        return frozenset()
    words = frozenset(grammar.words(parameter))
    if not words <= allowed:
        names = ", ".join(sorted(allowed))
        raise SyntaxFault(f"Flags: {names} are right, separated by commas", parameter)
    return words


def _selector(
    given: Mapping[str, Parameter], limits: Limits
) -> tuple[tuple[IdRange, ...] | None, str | None]:
    ids, cdest = given.get("criteria-id"), given.get("cdest-id")
    if ids is not None and cdest is not None:
        raise SyntaxFault("Criteria-ID or Cdest-ID is right, not both", ids, cdest)
    if ids is not None:
        return grammar.id_list(ids, limits), None
    if cdest is None:
        return None, None
    names = grammar.name_list(cdest, limits)
    if len(names) != 1:
        raise SyntaxFault("Cdest-ID: one name is right here", cdest)
    return None, names[0]


def _parse_delete(
    version: Version, envelope: Envelope, given: Mapping[str, Parameter], limits: Limits
) -> DeleteRequest:
    named = flags(given, frozenset({"static"}))
    ids, cdest = _selector(given, limits)
    if ids is None and cdest is None:
        raise SyntaxFault("DELETE needs Criteria-ID or Cdest-ID")
    return DeleteRequest(
        version=version,
        csource_id=envelope.csource_id,
        seq=envelope.seq,
        criteria_ids=ids,
        cdest_id=cdest,
        static="static" in named,
    )


def _parse_refresh(
    version: Version, envelope: Envelope, given: Mapping[str, Parameter], limits: Limits
) -> RefreshRequest:
    ids, cdest = _selector(given, limits)
    if ids is None and cdest is None:
        raise SyntaxFault("REFRESH needs Criteria-ID or Cdest-ID")
    numbers = _timeout_numbers(given)
    times = _timeouts(numbers)
    if not any(value for _, value in numbers.values()):
        raise SyntaxFault(
            "a time-out above 0 is needed",
            *(each for each, _ in numbers.values()),
            status=Status.IMPROPER_TIMEOUT,
        )
    return RefreshRequest(
        version=version,
        csource_id=envelope.csource_id,
        seq=envelope.seq,
        timeouts=times,
        criteria_ids=ids,
        cdest_id=cdest,
    )


def _parse_list(
    version: Version, envelope: Envelope, given: Mapping[str, Parameter], limits: Limits
) -> ListRequest:
    # "Criteria" is what a missing flag means to the vendor's routers.
    named = flags(given, _LIST_FLAGS) or frozenset({"criteria"})
    ids, cdest = _selector(given, limits)
    return ListRequest(
        version=version,
        csource_id=envelope.csource_id,
        seq=envelope.seq,
        criteria_ids=ids,
        cdest_id=cdest,
        criteria=bool(named & {"criteria", "both", "all"}),
        stats=bool(named & {"stats", "both", "all"}),
    )


def _parse_noop(
    version: Version, envelope: Envelope, given: Mapping[str, Parameter], _limits: Limits
) -> NoopRequest:
    named = flags(given, frozenset({"sendasync"}))
    return NoopRequest(version, envelope.csource_id, envelope.seq, send_async="sendasync" in named)


@dataclass(frozen=True, slots=True)
class AddParts:
    """What an ADD says about matching, ending and delivering.

    Attributes:
        cdest_ids: Content destinations.
        filter: What matches.
        scope: Where packets must pass.
        timeouts: What ends it.
        deliveries: The outer header for each content destination; empty where none is given.
        extensions: Every ``X-`` parameter in its order.
    """

    cdest_ids: tuple[str, ...]
    filter: FilterText
    scope: Scope
    timeouts: Timeouts
    deliveries: tuple[Delivery, ...]
    extensions: tuple[Parameter, ...]


def add_parts(
    given: Mapping[str, Parameter], limits: Limits, version: Version, *, needs_destination: bool = True
) -> AddParts:
    """Reads the parameters that an ADD shares with a criteria file.

    Raises:
        SyntaxFault: A parameter is wrong, alone or beside the others.
    """
    cdest = given.get("cdest-id")
    if cdest is None and needs_destination:
        raise SyntaxFault("ADD needs Cdest-ID")
    cdest_ids = () if cdest is None else grammar.name_list(cdest, limits)
    if len(cdest_ids) > _DESTINATIONS_MAX or len(set(cdest_ids)) < len(cdest_ids):
        raise SyntaxFault("Cdest-ID: one name, or two different ones, are right", *grammar.present(cdest))
    for each in grammar.present(*(given.get(name) for name in FILTER_PARAMETERS)):
        if each.value.count(",") >= limits.filter_elements:
            raise SyntaxFault(
                f"{each.name}: lists of more than {limits.filter_elements} elements are not implemented;"
                " split it into several criteria",
                each,
                status=Status.NOT_IMPLEMENTED,
            )
    filter_text = FilterText(
        **{field: given[name].value for name, field in FILTER_PARAMETERS.items() if name in given}
    )
    numbers = _timeout_numbers(given)
    # What cannot be read at all comes first, then what is not implemented, then what makes no sense.
    action = given.get("action")
    if action is not None and action.value.lower() != "copy":
        raise SyntaxFault(
            "Action: Copy is right; this tap cannot keep packets from their way",
            action,
            status=Status.NOT_IMPLEMENTED,
        )
    timeouts = _timeouts(numbers)
    _check_families(given, version)
    scope = _scope(given, filter_text, version)
    _refuse_subscribers(given)
    deliveries, read = read_deliveries(given, max(len(cdest_ids), 1))
    extensions = tuple([read.get(name, each) for name, each in given.items() if name.startswith("x-")])
    return AddParts(cdest_ids, filter_text, scope, timeouts, deliveries, extensions)


def _scope(given: Mapping[str, Parameter], filter_text: FilterText, version: Version) -> Scope:
    """Where packets must pass; what cannot be asked for together is refused [DTCP App. A.3, App. B]."""
    inputs, outputs = given.get("x-jtap-input-interface"), given.get("x-jtap-output-interface")
    vrf = given.get("x-jtap-vrf-name")
    if vrf is not None and (inputs or outputs):
        raise SyntaxFault(
            "X-JTap-VRF-Name cannot stand beside an interface",
            *grammar.present(vrf, inputs, outputs),
            status=Status.IMPROPER_FILTER,
        )
    family = given.get("x-jtap-filter-family")
    if family is not None:
        _check_circuit(family, given, filter_text, version)
    marks = grammar.present(given.get("x-jtap-ip-version"), given.get("ipversion"))
    ip_version: Literal[4, 6] | None = None
    if marks:
        ip_version = 6 if any(mark.value.lower() == "ipv6" for mark in marks) else 4
    if version < _IPV6_SINCE:
        ip_version = 4
    if not (inputs or outputs or vrf or ip_version or family):
        return _EVERYWHERE
    return Scope(
        input_interfaces=() if inputs is None else _interface_names(inputs),
        output_interfaces=() if outputs is None else _interface_names(outputs),
        vrf=None if vrf is None else vrf.value,
        ip_version=None if family else ip_version,
        is_circuit=family is not None,
    )


def _check_circuit(
    family: Parameter, given: Mapping[str, Parameter], filter_text: FilterText, version: Version
) -> None:
    """Layer-2 frames have no fields of layer 3; clients write ``*`` for what they do not ask for."""
    if family.value.lower() != "ccc":
        info = f"{family.name}: ccc is right; without it IP packets are matched"
        raise SyntaxFault(info, family, status=Status.JTAP_FAILURE)
    if version < _CIRCUITS_SINCE:
        raise SyntaxFault(f"{family.name} needs DTCP/{_CIRCUITS_SINCE.major}.{_CIRCUITS_SINCE.minor}", family)
    narrowing = [
        given[name]
        for name, field in FILTER_PARAMETERS.items()
        if getattr(filter_text, field) not in {None, "*"}
    ]
    narrowing += grammar.present(given.get("x-jtap-ip-version"), given.get("ipversion"))
    if narrowing:
        raise SyntaxFault(f"{narrowing[0].name} cannot stand beside {family.name}: ccc", family, *narrowing)


def _interface_names(given: Parameter) -> tuple[str, ...]:
    names = tuple(name.strip() for name in given.value.split(","))
    if not all(names) or len(names) > _INTERFACES_MAX:
        raise SyntaxFault(
            f"{given.name}: 1 to {_INTERFACES_MAX} names, separated by commas, are right",
            given,
            status=Status.JTAP_FAILURE,
        )
    return tuple(dict.fromkeys(names))


def _timeout_numbers(given: Mapping[str, Parameter]) -> dict[str, tuple[Parameter, int]]:
    """The time-outs that are given, as numbers of any size."""
    return {
        field: (given[name], _timeout(given[name], _TIMEOUT_HIGHEST[field]))
        for name, field in TIMEOUT_PARAMETERS.items()
        if name in given
    }


def _timeouts(numbers: Mapping[str, tuple[Parameter, int]]) -> Timeouts:
    """The time-outs that are given, none of them too large."""
    for field, (each, value) in numbers.items():
        if value > _TIMEOUT_HIGHEST[field]:
            raise SyntaxFault(
                f"{each.name}: at most {_TIMEOUT_HIGHEST[field]} is right",
                each,
                status=Status.IMPROPER_TIMEOUT,
            )
    return Timeouts(**{field: value for field, (_, value) in numbers.items()})


def _timeout(given: Parameter, highest: int) -> int:
    """Reads a time-out of any size, so that too large can be told apart from no number at all."""
    try:
        return grammar.number(given, _ANY_NUMBER)
    except SyntaxFault:
        info = f"{given.name}: a decimal number from 0 to {highest} is right"
        raise SyntaxFault(info, given) from None


def _check_families(given: Mapping[str, Parameter], version: Version) -> None:
    """Addresses must be of a family that the version has, and not of one that the vendor's mark excludes."""
    addresses = grammar.present(given.get("source-address"), given.get("dest-address"))
    if version < _IPV6_SINCE:
        outer = grammar.present(
            given.get("x-jtap-cdest-dest-address"), given.get("x-jtap-cdest-source-address")
        )
        for each in (*addresses, *outer):
            if ":" in each.value:
                raise SyntaxFault(f"{each.name}: {version} has IPv4 addresses only", each)
    for mark in grammar.present(given.get("x-jtap-ip-version"), given.get("ipversion")):
        family = mark.value.lower()
        if family not in {"ipv4", "ipv6"}:
            info = f"{mark.name}: ipv4 or ipv6 is right"
            raise SyntaxFault(info, mark, status=Status.JTAP_FAILURE)
        other = "." if family == "ipv6" else ":"
        for each in addresses:
            if any(_family_mark(element) == other for element in each.value.split(",")):
                raise SyntaxFault(
                    f"{mark.name}: {each.name} has addresses of the other family",
                    mark,
                    each,
                    status=Status.JTAP_FAILURE,
                )


def _family_mark(element: str) -> str | None:
    """The character that tells an address's family; an IPv6 address may end in an IPv4 one."""
    return next((mark for mark in ":." if mark in element), None)


def priority(given: Mapping[str, Parameter]) -> int:
    """Reads Priority: 1 at least, which is also what a missing one means [DTCP §5.4].

    Raises:
        SyntaxFault: It is no such number.
    """
    parameter = given.get("priority")
    value = 1 if parameter is None else grammar.number(parameter, 255)
    if value == 0:
        raise SyntaxFault("Priority: a number from 1 to 255 is right", *grammar.present(parameter))
    return value


def _parse_add(
    version: Version, envelope: Envelope, given: Mapping[str, Parameter], limits: Limits
) -> AddRequest:
    named = flags(given, ADD_FLAGS)
    rank = priority(given)
    parts = add_parts(given, limits, version)
    static = "static" in named
    times = (
        parts.timeouts.idle_s,
        parts.timeouts.total_s,
        parts.timeouts.packets,
        parts.timeouts.octets,
    )
    if not static and not any(times):
        raise SyntaxFault(
            "a time-out above 0 or the flag Static is needed",
            *(given[name] for name in TIMEOUT_PARAMETERS if name in given),
            status=Status.IMPROPER_TIMEOUT,
        )
    return AddRequest(
        version=version,
        csource_id=envelope.csource_id,
        seq=envelope.seq,
        cdest_ids=parts.cdest_ids,
        filter=parts.filter,
        scope=parts.scope,
        timeouts=parts.timeouts,
        static=static,
        send_async="sendasync" in named,
        priority=rank,
        deliveries=parts.deliveries,
        extensions=parts.extensions,
    )


def _refuse_subscribers(given: Mapping[str, Parameter]) -> None:
    named = [given[name] for name in sorted(given.keys() & _SUBSCRIBER)]
    if named:
        raise SyntaxFault(
            f"{named[0].name} cannot be matched by this tap; without it the filter would be wider",
            *named,
            status=Status.JTAP_FAILURE,
        )


_PARSERS: Final[Mapping[str, Callable[[Version, Envelope, Mapping[str, Parameter], Limits], Request]]] = {
    "ADD": _parse_add,
    "DELETE": _parse_delete,
    "REFRESH": _parse_refresh,
    "LIST": _parse_list,
    "NOOP": _parse_noop,
}
