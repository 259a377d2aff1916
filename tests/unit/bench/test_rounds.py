from __future__ import annotations

from flowtap.bench.rounds import Spread, in_turn


def test_in_turn() -> None:
    order: list[str] = []
    told: list[tuple[int, int]] = []

    def case(name: str, value: int) -> int:
        order.append(name)
        return value + len(order)

    cases = {"a": lambda: case("a", 0), "b": lambda: case("b", 100)}
    assert in_turn(cases, 3, lambda done, total: told.append((done, total))) == {
        "a": [1, 3, 5],
        "b": [102, 104, 106],
    }
    assert order == ["a", "b"] * 3
    assert told == [(done, 6) for done in range(6)]


def test_spread() -> None:
    spread = Spread.of([4.0, 1.0, 2.0])
    assert spread == Spread(2.0, 1.0, 4.0)
    assert spread.share == 1.5
    assert Spread.of([0.0]).share == 0


def test_no_round_begins_when_the_time_is_over() -> None:
    values = in_turn({"a": lambda: 1, "b": lambda: 2}, 1000, limit_s=0)
    assert values["a"]
    assert len(values["a"]) == len(values["b"]) < 1000
