from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flowtap.control import PERMISSION_APPROVE, PERMISSION_CHANGE, PERMISSION_TASK, PERMISSION_VIEW, Principal
from flowtap.service.views import Views

NOTHING = cast("Any", None)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "argument",
    [None, "ttp", [], {}, {"name": "ttp", "do": "unload"}, {"do": ["up"]}, {"name": 1, "do": "up"}],
)
async def test_nothing_else_is_done_to_tunnels(argument: object) -> None:
    views = Views(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
    principal = Principal("operator", frozenset({PERMISSION_CHANGE}), ip_address("127.0.0.1"))
    with pytest.raises(TypeError, match="up, down, rekey, rekey ike"):
        await views.change_tunnel(principal, argument)


@pytest.mark.parametrize(
    ("permission", "shown"), [(PERMISSION_TASK, []), (PERMISSION_APPROVE, []), (PERMISSION_VIEW, [7])]
)
def test_ends_that_are_not_recorded_are_for_those_who_may_look(permission: str, shown: list[int]) -> None:
    control = SimpleNamespace(intercepts=(), pending_ends=(7,))
    data_plane = SimpleNamespace(counts=dict)
    views = Views(cast("Any", control), NOTHING, cast("Any", data_plane), NOTHING, NOTHING)
    principal = Principal("md", frozenset({permission}), ip_address("127.0.0.1"))
    assert views._intercepts(principal)["pending_records"] == shown
