from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from flowtap.control import AuditRecord, AuditRow, ChainError, verify
from flowtap.control.audit import FIRST_HASH, chain_hash


def chain(count: int) -> list[AuditRow]:
    rows: list[AuditRow] = []
    for number in range(1, count + 1):
        when = datetime(2026, 3, 2, 10, 0, number)  # noqa: DTZ001 - as the protocol
        text = AuditRecord(when, "start", "md", "md", number, (("a", "b"),)).canonical()
        rows.append(AuditRow(number, text, chain_hash(rows[-1].hash if rows else FIRST_HASH, number, text)))
    return rows


def test_whole_chains() -> None:
    assert verify([]) == 0
    assert verify(chain(5)) == 5


@pytest.mark.parametrize("at", [0, 2, 4])
def test_changes_and_gaps_are_found(at: int) -> None:
    rows = chain(5)
    changed = [*rows]
    changed[at] = replace(rows[at], text=rows[at].text.replace("md", "mx"))
    with pytest.raises(ChainError) as caught:
        verify(changed)
    assert caught.value.number == at + 1
    if at < 4:
        with pytest.raises(ChainError, match="is missing"):
            verify([*rows[:at], *rows[at + 1 :]])
