"""Pictures of a result: rates over the number of hosts, and how far every figure is from what was asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

WIDTH = 8.0


def draw(result: dict[str, Any], directory: Path) -> list[Path]:
    """Draws what the result has something for."""
    with mpl.rc_context({"svg.hashsalt": "flowtap", "svg.fonttype": "none", "font.size": 9}):
        drawn = [
            (_rates(result), directory / "hosts.svg"),
            (
                _bars(result, "consumers", "million packets a second, Python programs"),
                directory / "consumers.svg",
            ),
            (_bars(result, "export", "million datagrams a second"), directory / "export.svg"),
            (
                _bars(result, "live", "sender's million frames a second beside each program"),
                directory / "live.svg",
            ),
        ]
        for picture, path in drawn:
            if picture is not None:
                picture.savefig(path, metadata={"Date": None})
    return [path for picture, path in drawn if picture is not None]


def _title(result: dict[str, Any]) -> str:
    machine = f"{result['processors']} x {result['processor']}, {result['kernel']}"
    return f"{machine}, flowtap {result['commit']}, {result['date'][:10]}"


def _measured(result: dict[str, Any], group: str) -> dict[str, Any]:
    """What the rows of a group have measured, by the name of what was run."""
    found: dict[str, Any] = {}
    for row in result["rows"]:
        if row["group"] == group:
            found |= {name: each for name, each in row["measured"].items() if isinstance(each, dict)}
    return {name: each for name, each in found.items() if "mpps" in each}


def _rates(result: dict[str, Any]) -> Figure | None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for name, each in (_measured(result, "hosts") | _measured(result, "expressions")).items():
        match = re.fullmatch(r"(.+), (\d+) hosts?", name)
        if match:
            lines.setdefault(match[1], []).append((int(match[2]), each["mpps"]))
    if not lines:
        return None
    picture = Figure(figsize=(WIDTH, 4.5), layout="constrained")
    axes = picture.subplots()
    for name, points in lines.items():
        points.sort()
        axes.plot([at for at, _ in points], [rate for _, rate in points], marker="o", label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("hosts asked for")
    axes.set_ylabel("million packets a second, one thread")
    axes.set_title(_title(result), fontsize="small")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    return picture


def _bars(result: dict[str, Any], group: str, what: str) -> Figure | None:
    found = _measured(result, group)
    if not found:
        return None
    picture = Figure(figsize=(WIDTH, 0.9 + 0.32 * len(found)), layout="constrained")
    axes = picture.subplots()
    names = list(found)[::-1]
    bars = axes.barh(
        names,
        [found[name]["mpps"] for name in names],
        color=["tab:blue" if name.startswith("flowtap") else "lightgray" for name in names],
    )
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.margins(x=0.12)
    axes.set_xlabel(what)
    axes.set_title(_title(result), fontsize="small")
    return picture
