"""Takes requests from all sessions in the order of their arrival to the one control plane.

Requests that wait while another batch is being served are served together: one transaction, one
synchronisation, one table change for all of them.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from flowtap.control import PortError, Principal, Tasked
from flowtap.dtcp import (
    ErrorResult,
    NoopRequest,
    NoopResult,
    RequestReceived,
    RequestRefused,
    Status,
)
from flowtap.service import clock
from flowtap.service.notify import timeout_parameters

if TYPE_CHECKING:
    from flowtap.control import ControlPlane, Now, Policy
    from flowtap.dtcp import Result
    from flowtap.service.notify import Notifier

__all__ = ["Session", "TaskingLoop"]

_LOG = logging.getLogger(__name__)

BATCH_MAX = 1024
RETRY_S = 5.0
POLL_S = 1.0
"""How often time-outs that counters drive are looked at; the protocol asks for one second."""


class Session(Protocol):
    """Where a request came from."""

    principal: Principal

    def answer(self, event: RequestReceived | RequestRefused, result: Result) -> None:
        """Queues an answer."""

    def flush(self) -> None:
        """Sends what is queued."""


class TaskingLoop:
    """Serves requests and time-outs; the control plane is used by its one thread only."""

    def __init__(self, control: ControlPlane, notifier: Notifier) -> None:
        self._control = control
        self._notifier = notifier
        self._queue: asyncio.Queue[tuple[Session, RequestReceived | RequestRefused]] = asyncio.Queue()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="control")

    def put(self, session: Session, event: RequestReceived | RequestRefused) -> None:
        """Queues a request."""
        self._queue.put_nowait((session, event))

    async def apply_policy(self, policy: Policy) -> None:
        """Rules requests that are taken up from now on."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, self._control.apply_policy, policy)

    async def run(self) -> None:
        """Serves until cancelled."""
        try:
            while True:
                try:
                    async with asyncio.timeout(POLL_S):
                        batch = [await self._queue.get()]
                except TimeoutError:
                    await self._expire()
                    continue
                while len(batch) < BATCH_MAX and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                await self._serve(batch)
        finally:
            self._executor.shutdown(wait=True)

    async def _serve(self, batch: list[tuple[Session, RequestReceived | RequestRefused]]) -> None:
        now = clock.now()
        loop = asyncio.get_running_loop()
        results = await loop.run_in_executor(self._executor, self._results, batch, now)
        sessions: dict[int, Session] = {}
        for (session, event), result in zip(batch, results, strict=True):
            session.answer(event, result)
            sessions[id(session)] = session
            self._tell(event, result, now)
        for session in sessions.values():
            session.flush()

    def _results(
        self, batch: list[tuple[Session, RequestReceived | RequestRefused]], now: Now
    ) -> list[Result]:
        """What comes of every request; runs in the control plane's thread."""
        # Sequence numbers are kept before anything is done, so that no crash lets a request in twice.
        highest = {event.csource_id: event.highest_seq for _, event in batch if event.highest_seq is not None}
        if highest and not self._control.keep_sequences(highest):
            error = ErrorResult(Status.SERVER_INTERNAL_ERROR, info="the journal could not be written")
            return [error] * len(batch)
        tasked = [
            Tasked(session.principal, event.request)
            for session, event in batch
            if isinstance(event, RequestReceived)
        ]
        served = iter(self._control.handle_all(tasked, now))
        return [next(served) if isinstance(event, RequestReceived) else event.error for _, event in batch]

    def _tell(self, event: RequestReceived | RequestRefused, result: Result, now: Now) -> None:
        """Sends the notifications that a request calls for."""
        self._notifier.heard(event.csource_id, event.version)
        if event.rolled_over:
            _LOG.warning("the sequence numbers of %s have gone round", event.csource_id)
            self._notifier.notify(event.csource_id, Status.SEQUENCE_ROLLOVER, (), now.wall)
        if (
            isinstance(event, RequestReceived)
            and isinstance(event.request, NoopRequest)
            and event.request.send_async
            and isinstance(result, NoopResult)
        ):
            self._notifier.notify(event.csource_id, Status.NOOP_NOTIFICATION, (), now.wall)

    async def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            now = clock.now()
            ended = await loop.run_in_executor(self._executor, self._control.expire, now)
        except PortError as error:
            _LOG.error("time-outs could not be looked at: %s", error)
            await asyncio.sleep(RETRY_S)
            return
        for each in ended:
            _LOG.info(
                "criteria %d of %s ended: %s",
                each.intercept.criteria_id,
                each.intercept.csource_id,
                each.reason,
            )
            if each.intercept.send_async:
                self._notifier.notify(
                    each.intercept.csource_id,
                    Status.CRITERION_TIMEOUT_DELETE,
                    timeout_parameters(each),
                    now.wall,
                )
