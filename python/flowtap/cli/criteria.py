"""Criteria files to filter tables."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowtap import ContentDestination, Criteria, CriteriaError, FilterTable
from flowtap.cli.console import Exit, fail
from flowtap.dtcp import CriteriaFileEntry, CriteriaFileError, Delivery, parse_criteria_file

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LoadedCriteria", "check_exportable", "comment", "load_criteria"]

_PARAMETERS = {
    "source": "source-address",
    "destination": "dest-address",
    "protocol": "protocol",
    "source_port": "source-port",
    "destination_port": "dest-port",
    "icmp_type": "icmp-type",
    "icmp_code": "icmp-code",
}


@dataclass(frozen=True, slots=True)
class LoadedCriteria:
    """A criteria file, compiled.

    Attributes:
        entries: What it says.
        table: The filter table.
        load_s: Time for reading.
        compile_s: Time for compiling.
    """

    entries: list[CriteriaFileEntry]
    table: FilterTable
    load_s: float
    compile_s: float


def load_criteria(path: str) -> LoadedCriteria:
    """Reads and compiles a criteria file; ``-`` is standard input.

    Raises:
        CriteriaFileError: It cannot be read, or a line is wrong.
    """
    began = time.perf_counter()
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise CriteriaFileError(path, 1, f"cannot be read: {reason}") from None
    entries = parse_criteria_file(text, path)
    labels = _labels(entries)
    criteria = [_criteria(entry, labels, path) for entry in entries]
    loaded = time.perf_counter()
    table = FilterTable.compile(
        criteria,
        {
            label: ContentDestination(
                str(delivery.address),
                delivery.port,
                str(delivery.source_address),
                delivery.source_port,
                delivery.ttl,
            )
            for (_, delivery), label in labels.items()
        },
    )
    return LoadedCriteria(entries, table, loaded - began, time.perf_counter() - loaded)


def _labels(entries: list[CriteriaFileEntry]) -> dict[tuple[str, Delivery], str]:
    """A name for every outer header: the content destination's, with a number where it has several."""
    labels: dict[tuple[str, Delivery], str] = {}
    used: dict[str, int] = {}
    for entry in entries:
        names = entry.cdest_ids or ("",) * len(entry.deliveries)
        for name, delivery in zip(names, entry.deliveries, strict=False):
            if (name, delivery) not in labels:
                used[name] = used.get(name, 0) + 1
                labels[name, delivery] = name if used[name] == 1 else f"{name}#{used[name]}"
    return labels


def _criteria(entry: CriteriaFileEntry, labels: Mapping[tuple[str, Delivery], str], path: str) -> Criteria:
    names = entry.cdest_ids or ("",) * len(entry.deliveries)
    deliveries = zip(names, entry.deliveries, strict=False)
    text = entry.filter
    if entry.scope.vrf is not None:
        line = entry.lines["x-jtap-vrf-name"]
        raise CriteriaFileError(path, line, "X-JTap-VRF-Name: a capture knows no routing instances")
    try:
        return Criteria(
            entry.id,
            source=text.source,
            destination=text.destination,
            protocol=text.protocol,
            source_port=text.source_port,
            destination_port=text.destination_port,
            icmp_type=text.icmp_type,
            icmp_code=text.icmp_code,
            ip_version=entry.scope.ip_version,
            input_interfaces=entry.scope.input_interfaces,
            output_interfaces=entry.scope.output_interfaces,
            circuit=entry.scope.is_circuit,
            deliver_to=[labels[name, delivery] for name, delivery in deliveries],
            # A zero among the time-outs is one that is not used [DTCP §5.4.1].
            timeout_idle_s=entry.timeouts.idle_s or None,
            timeout_total_s=entry.timeouts.total_s or None,
            timeout_packets=entry.timeouts.packets or None,
            timeout_octets=entry.timeouts.octets or None,
        )
    except CriteriaError as error:
        line = entry.lines.get(_PARAMETERS.get(error.field, ""), 0)
        raise CriteriaFileError(path, line or entry.line, str(error)) from None


def comment(loaded: LoadedCriteria) -> str:
    """The criteria for the file's comment: a pcapng file then says what it holds."""
    lines = (
        f"{entry.id}: "
        + " ".join(
            [
                *(
                    f"{name}={value}"
                    for name in type(entry.filter).__dataclass_fields__
                    if (value := getattr(entry.filter, name)) is not None
                ),
                *(f"{name}={value}" for name, value in entry.scope.parameters()),
            ]
        )
        for entry in loaded.entries[:100]
    )
    return "flowtap criteria\n" + "\n".join(lines)


def check_exportable(loaded: LoadedCriteria, path: str) -> None:
    """Ends the command where a request does not say where its copies go.

    Raises:
        CommandError: One does not.
    """
    for entry in loaded.entries:
        if not entry.deliveries:
            fail(
                f"{path}, line {entry.line}: --export needs X-JTap-Cdest-Dest-Address, -Dest-Port,"
                " -Source-Address and -Source-Port in every request",
                Exit.INVALID,
            )
