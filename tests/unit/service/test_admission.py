from __future__ import annotations

from ipaddress import ip_address

from flowtap.service.admission import Admission, Ticket


class Peers:
    """Connections that know when they were closed."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.closed: list[str] = []

    def connect(self, address: str, now_s: float = 0) -> Ticket | str:
        return self.admission.admit(ip_address(address), now_s, lambda: self.closed.append(address))

    def ticket(self, address: str, now_s: float = 0) -> Ticket:
        answer = self.connect(address, now_s)
        assert isinstance(answer, Ticket), answer
        return answer


def peers(**bounds: int) -> Peers:
    return Peers(
        Admission(**({"connection_limit": 2, "rate_limit": 5, "pool": 6, "pool_per_prefix": 3} | bounds))
    )


def test_attempts_in_a_minute_are_bounded_by_prefix() -> None:
    some = peers()
    for at in range(5):
        some.admission.release(some.ticket("192.0.2.1", at))
    assert "5 attempts" in str(some.connect("192.0.2.1", 59))
    some.ticket("192.0.2.2", 59)
    # The first attempt is a minute old: one more may come.
    some.admission.release(some.ticket("192.0.2.1", 60.5))
    assert isinstance(some.connect("192.0.2.1", 60.9), str)


def test_an_ipv6_network_is_one_peer() -> None:
    some = peers()
    for at in range(3):
        some.ticket(f"2001:db8::{at + 1}")
    assert isinstance(some.connect("2001:db8::ffff"), str)
    some.ticket("2001:db8:0:1::1")


def test_silent_connections_do_not_keep_others_out() -> None:
    some = peers()
    for at in range(6):
        some.ticket(f"192.0.2.{at % 2 + 1}", at)
    assert some.closed == []
    some.ticket("198.51.100.1", 7)
    assert some.closed == ["192.0.2.1"]
    some.ticket("198.51.100.2", 8)
    assert some.closed == ["192.0.2.1", "192.0.2.2"]


def test_authenticated_sessions_have_a_bound_of_their_own() -> None:
    some = peers()
    first, second, third = (some.ticket(f"192.0.2.{at}") for at in (1, 2, 3))
    assert some.admission.authenticated(first, "md", ["md"])
    assert some.admission.authenticated(second, "md", ["md"])
    assert first.is_authenticated
    assert not some.admission.authenticated(third, "md", ["md"])
    assert not third.is_authenticated
    some.admission.release(first)
    some.admission.release(first)
    fourth = some.ticket("192.0.2.4")
    assert some.admission.authenticated(fourth, "md", ["md"])
    # Those that have logged in take no place of those that have not.
    for at in range(6):
        some.ticket(f"198.51.100.{at}")
    assert some.closed == []


def test_one_login_leaves_a_place_for_every_other() -> None:
    some = peers(connection_limit=5, rate_limit=100, pool_per_prefix=50, pool=50)
    logins = ["md", "md2", "md3"]

    def log_in(login: str) -> bool:
        return some.admission.authenticated(some.ticket("192.0.2.1"), login, logins)

    assert [log_in("md") for _ in range(5)] == [True, True, True, False, False]
    assert log_in("md2")
    assert not log_in("md2")
    assert log_in("md3")
    assert not log_in("md3")


def test_many_logins_keep_no_more_than_half_of_the_places() -> None:
    some = peers(connection_limit=4, rate_limit=100, pool_per_prefix=50, pool=50)
    logins = [f"md{at}" for at in range(100)]
    assert [some.admission.authenticated(some.ticket("192.0.2.1"), "md1", logins) for _ in range(3)] == [
        True,
        True,
        False,
    ]


def test_every_password_is_an_attempt() -> None:
    some = peers(rate_limit=3)
    first = some.ticket("192.0.2.1")
    assert some.admission.attempt(first, 0)
    assert some.admission.attempt(first, 0)
    assert not some.admission.attempt(first, 1)
    assert "3 attempts" in str(some.connect("192.0.2.1", 2))
    assert some.admission.attempt(first, 61)


def test_memory_is_that_of_the_last_minute() -> None:
    some = peers(rate_limit=100)
    for at in range(2000):
        some.admission.release(some.ticket(f"10.0.{at // 250}.{at % 250}", at))
    assert len(some.admission._attempts) <= 62
