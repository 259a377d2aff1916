from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flowtap.control import PERMISSION_APPROVE, PERMISSION_TASK, PERMISSION_VIEW, Principal
from flowtap.service.views import Views


@pytest.mark.parametrize(
    ("permission", "shown"), [(PERMISSION_TASK, []), (PERMISSION_APPROVE, []), (PERMISSION_VIEW, [7])]
)
def test_ends_that_are_not_recorded_are_for_those_who_may_look(permission: str, shown: list[int]) -> None:
    control = SimpleNamespace(intercepts=(), pending_ends=(7,))
    data_plane = SimpleNamespace(counts=dict)
    nothing = cast("Any", None)
    views = Views(cast("Any", control), nothing, cast("Any", data_plane), nothing)
    principal = Principal("md", frozenset({permission}), ip_address("127.0.0.1"))
    assert views._intercepts(principal)["pending_records"] == shown
