"""Packets a second through flowtap and through pcapy-ng, from the same file.

pytest bench --benchmark-enable
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import pcapy
import pytest

from flowtap import ContentDestination, Criteria, Engine, FilterTable, Replay
from flowtap.adapters.pcapy import batches
from flowtap.bench.traffic import Plan

PACKETS = int(os.environ.get("FLOWTAP_BENCH_PACKETS", "20000"))

Benchmark: TypeAlias = Callable[[Callable[[], int]], int]


@pytest.fixture(scope="session")
def packets() -> int:
    return PACKETS


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bench") / "imix.pcap"
    PLAN.traffic().write(path, PACKETS)
    return str(path)


PLAN = Plan(match_share=0.001, active_hosts=1)
DESTINATION = {"cd": ContentDestination("203.0.113.9", 30000, "203.0.113.1")}


def table(count: int, *, deliver: bool = False) -> FilterTable:
    """One host that occurs, and others that do not."""
    return FilterTable.compile(replace(PLAN, hosts=count).criteria(["cd"] if deliver else []), DESTINATION)


@pytest.mark.parametrize("count", [1, 1000, 100_000])
def test_replay(benchmark: Benchmark, capture: str, packets: int, count: int) -> None:
    compiled = table(count)
    assert benchmark(lambda: Replay([capture], compiled, threads=1).run().stats.frames) == packets


def test_replay_that_writes(benchmark: Benchmark, capture: str, packets: int) -> None:
    compiled = table(1)
    assert (
        benchmark(lambda: Replay([capture], compiled, write="/dev/null", threads=1).run().stats.frames)
        == packets
    )


def test_feed_batch(benchmark: Benchmark, capture: str, packets: int) -> None:
    compiled = table(1000, deliver=True)

    def run() -> int:
        engine = Engine(compiled)
        for data, records in batches(pcapy.open_offline(capture), 4096):
            engine.feed_batch(data, records)
        return engine.stats().frames

    assert benchmark(run) == packets


def test_feed(benchmark: Benchmark, capture: str, packets: int) -> None:
    compiled = table(1000, deliver=True)
    reader = pcapy.open_offline(capture)
    frames = []
    while (pair := reader.next())[0] is not None:
        frames.append(pair[1])

    def run() -> int:
        engine = Engine(compiled)
        for frame in frames:
            engine.feed(frame)
        return engine.stats().frames

    assert benchmark(run) == packets


def test_compile_100_000(benchmark: Benchmark) -> None:
    criteria = [Criteria(number, source=PLAN.host(number)) for number in range(100_000)]
    assert benchmark(lambda: len(FilterTable.compile(criteria))) == 100_000


def test_pcapy_next(benchmark: Benchmark, capture: str, packets: int) -> None:
    def run() -> int:
        reader = pcapy.open_offline(capture)
        count = 0
        while reader.next()[0] is not None:
            count += 1
        return count

    assert benchmark(run) == packets


def test_pcapy_loop(benchmark: Benchmark, capture: str, packets: int) -> None:
    def run() -> int:
        reader = pcapy.open_offline(capture)
        count = 0

        def taken(_header: object, _data: bytes) -> None:
            nonlocal count
            count += 1

        reader.loop(0, taken)
        return count

    assert benchmark(run) == packets


def test_pcapy_next_batch(benchmark: Benchmark, capture: str, packets: int) -> None:
    def run() -> int:
        return sum(len(records) // 16 for _, records in batches(pcapy.open_offline(capture), 4096))

    assert benchmark(run) == packets
