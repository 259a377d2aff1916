from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtap.dtcp import SequenceStep, SequenceWindow

TOP = 2**64 - 1


def test_the_first_number_may_be_any_and_those_behind_it_are_unseen() -> None:
    window = SequenceWindow()
    assert window.accept(1000) is SequenceStep.FIRST
    assert window.accept(999) is SequenceStep.BEHIND
    assert window.accept(999) is None
    assert window.accept(1000) is None
    assert window.highest == 1000


@pytest.mark.ledger("T-049", "T-053")
@pytest.mark.parametrize(
    ("number", "step"),
    [
        (1001, SequenceStep.AHEAD),
        (1256, SequenceStep.AHEAD),
        (1257, None),
        (1000, None),
        (999, None),
        (744, None),
        (0, None),
        (TOP, None),
    ],
)
def test_after_a_restart_nothing_behind_counts(number: int, step: SequenceStep | None) -> None:
    assert SequenceWindow(1000).accept(number) is step


@pytest.mark.ledger("T-058", "T-061", "T-062")
def test_the_window_behind_is_as_wide() -> None:
    window = SequenceWindow()
    window.accept(1000)
    assert window.accept(744) is SequenceStep.BEHIND
    assert window.accept(743) is None
    assert window.accept(1256) is SequenceStep.AHEAD
    # Both windows have moved.
    assert window.accept(1001) is SequenceStep.BEHIND
    assert window.accept(999) is None


@pytest.mark.ledger("T-049", "T-054")
def test_numbers_go_round_only_at_their_end() -> None:
    window = SequenceWindow(TOP - 3)
    assert window.accept(300) is None
    assert window.accept(5) is SequenceStep.ROLLED_OVER
    assert window.highest == 5
    assert window.accept(TOP) is SequenceStep.BEHIND
    assert window.accept(TOP) is None
    assert window.accept(6) is SequenceStep.AHEAD


@pytest.mark.ledger("T-059", "T-060")
@given(st.lists(st.integers(0, 700), max_size=80))
def test_nothing_is_accepted_twice_and_nothing_new_is_lost(offsets: list[int]) -> None:
    window = SequenceWindow(2**63)
    accepted: set[int] = set()
    highest = 2**63
    for offset in offsets:
        number = 2**63 - 200 + offset
        expected = number not in accepted and (
            highest < number <= highest + 256 or (2**63 < number < highest and number >= highest - 256)
        )
        assert (window.accept(number) is not None) == expected
        if expected:
            accepted.add(number)
            highest = max(highest, number)
    assert window.highest == highest
