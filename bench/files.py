"""Capture files: flowtap replay beside tcpdump and beside a scan that does next to nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import captures
import rules
from flowtap import Criteria, FilterTable
from flowtap.bench.rounds import Spread
from flowtap.bench.traffic import Plan, benchmark_flows
from programs import EXAMPLES, FLOWTAP, ProgramError, Run, run
from row import Row, at_least, at_most
from scale import Scale

PLAN = Plan(hosts=1, match_share=0.001, active_hosts=1)
"""One host, and a frame in a thousand is from or to it."""
MANY = 100_000
EXPRESSION_HOSTS = (10, 100)
SLOW_HOSTS = 1_000
RULES_AT_LEAST_MPPS = {"1000": 2.0, "10000": 1.0}
MIB = 1 << 20


def criteria_file(hosts: int) -> Path:
    return captures.text_file(f"hosts-{hosts}.txt", replace(PLAN, hosts=hosts).requests())


def replay(files: list[Path], criteria: Path, threads: int = 1, *, memory: bool = False) -> Run:
    command: list[str | Path] = [
        *FLOWTAP,
        "replay",
        *files,
        "--criteria",
        criteria,
        "-w",
        "/dev/null",
        "--json",
        "--threads",
        str(threads),
    ]
    return run(command, memory=memory)


def tcpdump(files: list[Path], hosts: int) -> Run:
    plan = replace(PLAN, hosts=hosts)
    words = " or ".join(f"host {plan.host(number)}" for number in range(hosts))
    expression = captures.text_file(f"hosts-{hosts}.bpf", words)
    listed = captures.text_file("files.txt", "".join(f"{path}\n" for path in files))
    return run(["tcpdump", "-V", listed, "-w", "/dev/null", "-F", expression], timeout_s=600)


def scan(files: list[Path]) -> Run:
    return run([EXAMPLES / "file_scan", PLAN.host(0), *files])


def elapsed_s(done: Run) -> float:
    """flowtap and the scan say how long reading took; for all others it is the program's whole time."""
    if not done.output.strip():
        return done.wall_s
    value: float = done.json["elapsed_s"]
    return value


def summary(runs: list[Run], frames: int, begin_s: float = 0.0) -> dict[str, Any]:
    """Rates of some runs, for the result file.

    Args:
        runs: What was run.
        frames: How many frames each of them had.
        begin_s: Processor time that goes into beginning, which is not in the rates either.
    """
    rates = Spread.of([frames / elapsed_s(each) / 1e6 for each in runs])
    cpu_s = Spread.of([each.cpu_s for each in runs]).median - begin_s
    return {
        "mpps": round(rates.median, 3),
        "from_mpps": round(rates.least, 3),
        "to_mpps": round(rates.most, 3),
        "cpu_s": round(cpu_s, 3),
        "cpu_mpps": round(frames / cpu_s / 1e6, 3) if cpu_s > 0 else None,
        "rounds_s": [round(elapsed_s(each), 4) for each in runs],
    }


def mpps(each: dict[str, Any]) -> float:
    value: float = each["mpps"]
    return value


def begin_s(criteria: Path) -> float:
    """Processor time that replay needs before it reads: Python's beginning, and reading the criteria."""
    return replay([captures.capture("one", PLAN.traffic(), 1)], criteria).cpu_s


def told(each: dict[str, Any]) -> str:
    return f"{each['mpps']:.2f} ({each['from_mpps']:.2f} to {each['to_mpps']:.2f})"


def hosts(scale: Scale) -> list[Row]:
    """One host and many against tcpdump."""
    capture = captures.capture("imix", PLAN.traffic(), scale.packets)
    files = [capture] * scale.passes
    frames = scale.packets * scale.passes
    cases: dict[str, Callable[[], Run]] = {
        "flowtap, 1 host": partial(replay, files, criteria_file(1)),
        "tcpdump, 1 host": partial(tcpdump, files, 1),
        "scan, 1 host": partial(scan, files),
        f"flowtap, {MANY} hosts": partial(replay, files, criteria_file(MANY)),
    }
    runs = scale.in_turn(cases)
    begin = {
        f"flowtap, {count} host{'s' * (count > 1)}": begin_s(criteria_file(count)) for count in (1, MANY)
    }
    found = {name: summary(each, frames, begin.get(name, 0.0)) for name, each in runs.items()}
    matched = {name: runs[name][0].json["matched"] for name in cases if not name.startswith("tcpdump")}
    if len(set(matched.values())) != 1:
        message = f"the programs do not agree on what matches: {matched}"
        raise ProgramError(message)
    ours, theirs, limit, many = found.values()
    cpu = theirs["cpu_s"] / ours["cpu_s"]
    note = (
        f"flowtap {told(ours)} Mpps, tcpdump {told(theirs)}, minimal scan {told(limit)};"
        f" by processor time {cpu:.2f} times"
    )
    load = runs[f"flowtap, {MANY} hosts"][0].json
    return [
        at_least(
            "one host pair, one thread, -w /dev/null, against tcpdump",
            1.5,
            mpps(ours) / mpps(theirs),
            note=note,
            measured=found,
        ),
        at_most(
            f"{MANY:,} hosts against one host",
            1.5,
            mpps(ours) / mpps(many),
            unit="times slower",
            note=f"{told(many)} Mpps, load_s {load['load_s']:.2f}, compile_s {load['compile_s']:.3f};"
            f" by processor time {many['cpu_s'] / ours['cpu_s']:.2f} times",
            measured={"matched": matched, "load_s": load["load_s"], "compile_s": load["compile_s"]},
        ),
    ]


def expressions(scale: Scale) -> list[Row]:
    """Where tcpdump's expression grows; its time contains the compilation."""
    capture = [captures.capture("imix", PLAN.traffic(), scale.packets)]
    cases: dict[str, Callable[[], Run]] = {}
    for count in EXPRESSION_HOSTS:
        cases[f"flowtap, {count} hosts"] = partial(replay, capture, criteria_file(count))
        cases[f"tcpdump, {count} hosts"] = partial(tcpdump, capture, count)
    found = {name: summary(each, scale.packets) for name, each in scale.in_turn(cases).items()}
    ours = [replay(capture, criteria_file(SLOW_HOSTS)) for _ in range(scale.rounds)]
    # One run of a minute says enough.
    theirs = [tcpdump(capture, SLOW_HOSTS)]
    found[f"flowtap, {SLOW_HOSTS} hosts"] = summary(ours, scale.packets)
    found[f"tcpdump, {SLOW_HOSTS} hosts"] = summary(theirs, scale.packets)
    ratio = elapsed_s(theirs[0]) / Spread.of([elapsed_s(each) for each in ours]).median
    note = f"tcpdump {elapsed_s(theirs[0]):.1f} s; " + ", ".join(
        f"{count} hosts {mpps(found[f'flowtap, {count} hosts']) / mpps(found[f'tcpdump, {count} hosts']):.1f}"
        " times"
        for count in EXPRESSION_HOSTS
    )
    figure = f"{SLOW_HOSTS:,} hosts on {scale.packets // 1_000_000} million packets, against tcpdump"
    return [at_least(figure, 200, ratio, note=note, measured=found)]


def threads(scale: Scale) -> list[Row]:
    """Two threads against one."""
    figure = "two threads against one"
    capture = captures.capture("imix", PLAN.traffic(), scale.packets)
    files = [capture] * scale.passes
    criteria = criteria_file(1)
    cases = {count: partial(replay, files, criteria, count) for count in (1, 2)}
    found = {
        f"{count} threads": summary(each, scale.packets * scale.passes)
        for count, each in scale.in_turn(cases).items()
    }
    one, two = found.values()
    note = f"{told(one)} and {told(two)} Mpps"
    return [at_least(figure, 1.6, mpps(two) / mpps(one), note=note, measured=found)]


def memory(scale: Scale) -> list[Row]:
    """The most memory that replay has at once, and what a table needs."""
    capture = captures.capture("imix", PLAN.traffic(), scale.packets)
    peaks = {
        passes: replay([capture] * passes, criteria_file(1), 2, memory=True).peak_octets
        for passes in sorted({1, scale.passes})
    }
    many = replay([capture], criteria_file(MANY), 2, memory=True).peak_octets
    table = FilterTable.compile([Criteria(number + 1, source=PLAN.host(number)) for number in range(MANY)])
    each = table.memory_octets / MANY
    sizes = ", ".join(
        f"{capture.stat().st_size * passes / 1e9:.1f} GB of frames: {peak / MIB:.0f} MiB"
        for passes, peak in peaks.items()
    )
    return [
        at_most(
            "peak memory of replay on any file size",
            64,
            max(peaks.values()) / MIB,
            unit="MiB beside the table",
            note=f"{sizes}; with {MANY:,} hosts read from a criteria file: {many / MIB:.0f} MiB",
            measured={"peak_octets": peaks, "many_hosts_peak_octets": many},
        ),
        at_most("table", 200, each, unit="octets per host criterion", note=f"{MANY:,} criteria"),
    ]


def rule_sets(scale: Scale) -> list[Row]:
    """Rule sets with prefixes, ranges and ports; packets drawn from them, and packets that match none."""
    names = rules.names()
    if not names:
        figure = "classbench sets, packets drawn from the rules"
        return [
            Row(
                figure, "1 Mpps (10k), 2 Mpps (1k)", note=f"{rules.DIRECTORY.name}: the rule sets are missing"
            )
        ]
    rows = []
    found: dict[str, Any] = {}
    cases: dict[str, Callable[[], Run]] = {}
    for name in names:
        capture = captures.capture(
            name, captures.drawn(rules.flows(rules.rules(name), 1)), scale.rule_packets
        )
        criteria = captures.text_file(f"{name}.txt", rules.requests(rules.rules(name)))
        cases[name] = partial(replay, [capture], criteria)
    for name, runs in scale.in_turn(cases).items():
        begin = begin_s(captures.DIRECTORY / f"{name}.txt")
        found[name] = summary(runs, scale.rule_packets, begin)
        report = runs[0].json
        each = report["copies"] / report["frames"]
        rows.append(
            at_least(
                f"{name}, packets drawn from the rules",
                RULES_AT_LEAST_MPPS[name.rpartition("_")[2]],
                mpps(found[name]),
                unit="Mpps",
                note=f"{told(found[name])}; {each:.1f} rules match, compile_s {report['compile_s']:.3f};"
                f" by processor time {found[name]['cpu_mpps']} Mpps",
                measured=found[name] | {"matches": each, "compile_s": report["compile_s"]},
            )
        )
    return rows + rules_that_match_nothing(scale, [name for name in names if name.endswith("_10000")])


def rules_that_match_nothing(scale: Scale, names: list[str]) -> list[Row]:
    capture = captures.capture("rfc2544", captures.drawn(benchmark_flows(1)), scale.packets)
    files = {"one host": criteria_file(1)}
    for name in names:
        others = [rule for rule in rules.rules(name) if not rule.is_about(rules.BENCHMARK_ADDRESSES)]
        files[name] = captures.text_file(f"{name}-none.txt", rules.requests(others))
    runs = scale.in_turn({name: partial(replay, [capture], criteria) for name, criteria in files.items()})
    begin = {name: begin_s(criteria) for name, criteria in files.items()}
    found = {name: summary(each, scale.packets, begin[name]) for name, each in runs.items()}
    for name, each in runs.items():
        if each[0].json["matched"]:
            message = f"{name}: {each[0].json['matched']} frames matched where none should"
            raise ProgramError(message)
    one = found["one host"]
    return [
        at_least(
            f"{name} without the rules about 198.18.0.0/15, traffic of that range",
            0.5,
            mpps(found[name]) / mpps(one),
            unit="of the one-host rate",
            note=f"{told(found[name])} and {told(one)} Mpps;"
            f" by processor time {one['cpu_s'] / found[name]['cpu_s']:.2f}",
            measured={name: found[name], "one host": one},
        )
        for name in names
    ]
