"""Takes requests from all sessions in the order of their arrival to the one control plane.

Requests that wait while another batch is being served are served together: one transaction, one
synchronisation, one table change for all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec, Protocol, TypeVar

from flowtap.control import Ended, Misread, PortError, Principal, Purged, Tasked
from flowtap.control.accounts import SourceAccount
from flowtap.dtcp import (
    DeleteRequest,
    ErrorResult,
    NoopRequest,
    NoopResult,
    RequestReceived,
    RequestRefused,
    Status,
)
from flowtap.service import clock
from flowtap.service.notify import content
from flowtap.service.sequences import SequenceState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from datetime import datetime

    from flowtap.control import ControlPlane, Happening, Now, Restarted
    from flowtap.dtcp import Rejected, Result
    from flowtap.service.notify import Notifier

__all__ = ["Session", "TaskingLoop"]

_LOG = logging.getLogger(__name__)
_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")

BATCH_MAX: Final = 1024
POLL_S: Final = 1.0
"""How often time-outs and congestion are looked at; the protocol asks for one second."""


class Session(Protocol):
    """Where a request came from."""

    principal: Principal

    def answer(self, event: RequestReceived | RequestRefused, result: Result, when: datetime) -> None:
        """Queues an answer of that time."""

    def flush(self) -> None:
        """Sends what is queued."""


_Asked = tuple[Session, RequestReceived | RequestRefused]


class TaskingLoop:
    """Serves requests and time-outs; the control plane is used by its one thread only.

    A request crosses to that thread and its answer comes back, and nothing else is woken on the way: the loop
    is not a task that waits for requests but what is called when they come and when they are served.

    Args:
        control: Decides.
        notifier: Tells control sources.
        sequences: The sequence numbers of all control sources, where any are checked.
    """

    def __init__(
        self, control: ControlPlane, notifier: Notifier, sequences: SequenceState | None = None
    ) -> None:
        self._control = control
        self._notifier = notifier
        self._sequences = sequences or SequenceState({})
        self._unkept: frozenset[str] = frozenset()
        """Control sources whose highest sequence number is on no disk yet; the control thread's."""
        self._waiting: deque[_Asked] = deque()
        self._is_serving = False
        self._is_over = False
        self._failed: BaseException | None = None
        self._wake = asyncio.Event()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="control")
        self.accounts: defaultdict[str, SourceAccount] = defaultdict(SourceAccount)

    def put(self, session: Session, event: RequestReceived | RequestRefused) -> None:
        """Queues a request."""
        self._waiting.append((session, event))
        if not self._is_serving:
            self._is_serving = True
            # Not at once: what came in the same piece is served with it.
            asyncio.get_running_loop().call_soon(self._serve)

    def rejected(self, event: Rejected) -> None:
        """Counts a message that gets no answer, where it is known whose it would be."""
        if event.csource_id is not None:
            self.accounts[event.csource_id].answered(event.status)

    async def act(
        self, function: Callable[_Arguments, _Value], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> _Value:
        """Calls something that uses the control plane, in its thread and between batches."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))

    async def run(self) -> None:
        """Serves until cancelled; looks at time-outs however many requests there are.

        Raises:
            BaseException: What was raised while requests were served.
        """
        loop = asyncio.get_running_loop()
        due = loop.time() + POLL_S
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await self._wake.wait()
                if self._failed is not None:
                    raise self._failed
                await self._tick()
                due = loop.time() + POLL_S
        finally:
            self._is_over = True
            self._executor.shutdown(wait=True)

    def _serve(self) -> None:
        """Hands what waits to the control plane's thread."""
        if not self._waiting or self._is_over:
            self._is_serving = False
            return
        count = min(len(self._waiting), BATCH_MAX)
        batch = [self._waiting.popleft() for _ in range(count)]
        now, loop = clock.now(), asyncio.get_running_loop()
        # Not what they were when the requests were read: these may have waited while later ones were served.
        highest = self._highest(event.csource_id for _, event in batch if event.highest_seq is not None)

        def served(results: Future[list[Result]]) -> None:
            loop.call_soon_threadsafe(self._answer, batch, results, now)

        self._executor.submit(self._results, batch, highest, now).add_done_callback(served)

    def _answer(self, batch: list[_Asked], results: Future[list[Result]], now: Now) -> None:
        """Sends what has come of a batch, and goes on with what came meanwhile."""
        try:
            sessions: dict[int, Session] = {}
            for (session, event), result in zip(batch, results.result(), strict=True):
                self._send(session, partial(session.answer, event, result, now.wall))
                sessions[id(session)] = session
                self._account(event, result, now)
                self._tell(event, result, now)
            for session in sessions.values():
                self._send(session, session.flush)
        except BaseException as error:  # noqa: BLE001 - raised by whoever runs the loop
            self._failed, self._is_over = error, True
            self._wake.set()
        self._serve()

    def _send(self, session: Session, send: Callable[[], None]) -> None:
        """Hands something to a session; that it fails is its own affair and nobody else's."""
        try:
            send()
        except Exception as error:  # noqa: BLE001 - whatever it was
            # Without its words: they may be those of the answer.
            _LOG.error("an answer to %s was not sent: %s", session.principal.login, type(error).__name__)

    def _highest(self, csource_ids: Iterable[str]) -> dict[str, int]:
        """The highest numbers of control sources, and of those whose record is still missing."""
        highest = {name: self._sequences.highest(name) for name in {*csource_ids, *self._unkept}}
        return {name: number for name, number in highest.items() if number is not None}

    def _keep(self, highest: dict[str, int]) -> None:
        """Records sequence numbers; what cannot be recorded is tried again; in the control plane's thread."""
        is_kept = not highest or self._control.keep_sequences(highest)
        self._unkept = frozenset() if is_kept else frozenset(highest)

    def _may_be_served(self, event: RequestReceived) -> bool:
        """Whether a request's own number is kept, or a second time would do no harm.

        A stop stops, whatever the disk says; and a NOOP does nothing.
        """
        is_kept = event.highest_seq is None or event.csource_id not in self._unkept
        return is_kept or isinstance(event.request, DeleteRequest | NoopRequest)

    def _results(self, batch: list[_Asked], highest: dict[str, int], now: Now) -> list[Result]:
        """What comes of every request; runs in the control plane's thread."""
        # Sequence numbers are kept before anything is done, so that no crash lets a request in twice.
        self._keep(highest)
        tasked = [
            Tasked(session.principal, event.request)
            for session, event in batch
            if isinstance(event, RequestReceived) and self._may_be_served(event)
        ]
        misread = [
            Misread(session.principal, event.csource_id, event.method, event.error)
            for session, event in batch
            if isinstance(event, RequestRefused)
        ]
        if misread:
            self._control.misread(misread, now)
        served = iter(self._control.handle_all(tasked, now))
        unkept = ErrorResult(Status.SERVER_INTERNAL_ERROR, info="the journal could not be written")
        return [
            event.error
            if isinstance(event, RequestRefused)
            else next(served)
            if self._may_be_served(event)
            else unkept
            for _, event in batch
        ]

    def _account(self, event: RequestReceived | RequestRefused, result: Result, now: Now) -> None:
        account = self.accounts[event.csource_id]
        if isinstance(event, RequestReceived):
            account.served(event.request, result, now.monotonic_ns)
        else:
            account.answered(event.error.status)

    def _tell(self, event: RequestReceived | RequestRefused, result: Result, now: Now) -> None:
        """Sends the notifications that a request calls for."""
        self._notifier.heard(event.csource_id, event.version)
        if event.rolled_over:
            _LOG.warning("the sequence numbers of %s have gone round", event.csource_id)
            self._notify(event.csource_id, Status.SEQUENCE_ROLLOVER, now)
        if (
            isinstance(event, RequestReceived)
            and isinstance(event.request, NoopRequest)
            and event.request.send_async
            and isinstance(result, NoopResult)
        ):
            self._notify(event.csource_id, Status.NOOP_NOTIFICATION, now)

    def _notify(self, csource_id: str, status: Status, now: Now) -> None:
        if self._notifier.notify(csource_id, status, (), now.wall):
            self.accounts[csource_id].notified(status)

    async def _tick(self) -> None:
        now = clock.now()
        if self._unkept:
            await self.act(self._keep, self._highest(()))
        try:
            happened = await self.act(self._control.tick, now)
        except PortError as error:
            _LOG.error("time-outs could not be looked at: %s", error)
            return
        for each in happened:
            self.tell(each, now)

    def tell(self, happened: Happening | Restarted, now: Now) -> None:
        """Writes into the log what has happened, and tells the control source that it concerns."""
        account = self.accounts[happened.csource_id]
        status, parameters = content(happened)
        match happened:
            case Ended(intercept, reason):
                account.ended(reason)
                _LOG.info("criteria %d of %s ended: %s", intercept.criteria_id, intercept.csource_id, reason)
                if not intercept.send_async:
                    return
            case Purged(csource_id, cdest_id, ids):
                numbers = ", ".join(map(str, ids))
                _LOG.warning("criteria %s of %s ended: congestion of %s", numbers, csource_id, cdest_id)
            case _:
                said = "; ".join(f"{each.name} {each.value}" for each in parameters)
                _LOG.warning("%s: %s: %s", happened.csource_id, status.reason, said)
        if self._notifier.notify(happened.csource_id, status, parameters, now.wall):
            account.notified(status)
