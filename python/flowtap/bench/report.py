"""Figures as a table, as JSON and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowtap.bench.rounds import Spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from flowtap.bench.parts import Case

__all__ = ["HEAD", "Figure", "PlotError", "plot"]

HEAD = ("part", "what", "octets", "hosts", "match", "Mpps", "from", "to", "ns")
HOW_TO_INSTALL = "a picture needs matplotlib: pip install 'flowtap[bench]'"


class PlotError(Exception):
    """There will be no picture; the message says why."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What the rounds of one case gave.

    Attributes:
        case: What was measured.
        rates_pps: Frames a second, round by round.
    """

    case: Case
    rates_pps: tuple[float, ...]

    @classmethod
    def of(cls, case: Case, runs: Iterable[tuple[int, float]]) -> Figure:
        """From frames and seconds of every round."""
        return cls(case, tuple(frames / elapsed_s for frames, elapsed_s in runs))

    @property
    def spread(self) -> Spread:
        """Median, least and most of the rates."""
        return Spread.of(self.rates_pps)

    def row(self) -> tuple[object, ...]:
        """A row of the table under `HEAD`."""
        case, spread = self.case, self.spread
        return (
            case.part,
            case.what,
            "IMIX" if case.length_octets is None else str(case.length_octets),
            case.hosts,
            f"{case.match_share:.4g}",
            *(f"{rate / 1e6:6.2f}" for rate in (spread.median, spread.least, spread.most)),
            f"{1e9 / spread.median:7.1f}",
        )

    def as_json(self) -> dict[str, Any]:
        """The same, for programs."""
        case, spread = self.case, self.spread
        return {
            "part": case.part,
            "what": case.what,
            "length_octets": case.length_octets,
            "hosts": case.hosts,
            "match_share": case.match_share,
            "median_pps": round(spread.median),
            "least_pps": round(spread.least),
            "most_pps": round(spread.most),
            "rounds_pps": [round(rate) for rate in self.rates_pps],
        }


def plot(figures: Sequence[Figure], title: str, path: Path) -> None:
    """Draws rates over the number of hosts, one line for each part and what it does.

    Args:
        figures: What to draw.
        title: What stands above: the machine.
        path: An SVG or PNG file.

    Raises:
        PlotError: matplotlib is not there.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - optional, and slow to import
        from matplotlib.figure import Figure as Picture  # noqa: PLC0415
    except ImportError:
        raise PlotError(HOW_TO_INSTALL) from None
    # The same figures give the same file.
    with mpl.rc_context({"svg.hashsalt": "flowtap", "svg.fonttype": "none"}):
        picture = Picture(figsize=(8, 5), layout="constrained")
        axes = picture.subplots()
        for (part, what, length), line in _lines(figures).items():
            hosts = [max(figure.case.hosts, 1) for figure in line]
            spreads = [figure.spread for figure in line]
            medians = [spread.median / 1e6 for spread in spreads]
            below = [(spread.median - spread.least) / 1e6 for spread in spreads]
            above = [(spread.most - spread.median) / 1e6 for spread in spreads]
            label = f"{part}: {what}, {length}"
            axes.errorbar(hosts, medians, yerr=(below, above), marker="o", capsize=3, label=label)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("hosts tapped, each in both directions")
        axes.set_ylabel("million frames a second (median; bars: least and most)")
        axes.set_title(title, fontsize="small")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="x-small")
        picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _lines(figures: Sequence[Figure]) -> dict[tuple[str, str, str], list[Figure]]:
    lines: dict[tuple[str, str, str], list[Figure]] = {}
    for figure in figures:
        case = figure.case
        length = "IMIX" if case.length_octets is None else f"{case.length_octets} octets"
        lines.setdefault((case.part, case.what, length), []).append(figure)
    return lines
