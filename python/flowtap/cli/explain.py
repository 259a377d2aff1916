"""flowtap explain: what is in every frame, and what the criteria say to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flowtap import explain as explain_frames
from flowtap.cli.console import print_json
from flowtap.cli.criteria import load_criteria

if TYPE_CHECKING:
    from flowtap import Explanation

__all__ = ["explain"]


@click.command()
@click.argument("capture")
@click.option("--criteria", "criteria_file", metavar="FILE", help="DTCP ADD requests as text.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a frame.")
def explain(*, capture: str, criteria_file: str | None, as_json: bool) -> None:
    """Say for every frame what was decoded, which criteria match, and why the others do not."""
    table = load_criteria(criteria_file).table if criteria_file else None
    for each in explain_frames(capture, table):
        if as_json:
            print_json(_value(each))
        else:
            print(_line(each, has_criteria=table is not None))


def _value(each: Explanation) -> dict[str, Any]:
    fragment = each.fragment
    stop = each.stop
    return {
        "frame": each.frame,
        "layers": each.layers,
        "source": each.source,
        "destination": each.destination,
        "protocol": each.protocol,
        "source_port": each.source_port,
        "destination_port": each.destination_port,
        "icmp_type": each.icmp_type,
        "icmp_code": each.icmp_code,
        "fragment": fragment and {"offset_octets": fragment[0], "more": fragment[1]},
        "vlan": each.vlan,
        "mpls": each.mpls,
        "stop": stop and {"layer": stop[0], "reason": stop[1]},
        "matched": each.matched,
        "rejected": [{"id": number, "field": field} for number, field in each.rejected],
    }


def _endpoint(address: str, port: int | None) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _line(each: Explanation, *, has_criteria: bool) -> str:
    parts = [f"{each.frame}", "/".join(each.layers) or "(nothing)"]
    parts += [f"vlan {vlan}" for vlan in each.vlan]
    parts += [f"label {label}" for label in each.mpls]
    if each.source is not None and each.destination is not None:
        parts.append(
            f"{_endpoint(each.source, each.source_port)} > "
            f"{_endpoint(each.destination, each.destination_port)} protocol {each.protocol}"
        )
    if each.icmp_type is not None:
        parts.append(f"type {each.icmp_type} code {each.icmp_code}")
    if each.fragment is not None:
        offset, more = each.fragment
        parts.append(f"fragment at {offset}, {'more follow' if more else 'the last'}")
    if each.stop is not None:
        parts.append(f"stopped in {each.stop[0]}: {each.stop[1]}")
    if has_criteria:
        parts.append("matches " + (",".join(map(str, each.matched)) or "nothing"))
        if each.rejected:
            parts.append("not " + ",".join(f"{number} ({field})" for number, field in each.rejected))
    return "  ".join(parts)
