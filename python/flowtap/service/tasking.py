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
from flowtap.dtcp import RequestReceived, RequestRefused
from flowtap.service import clock

if TYPE_CHECKING:
    from flowtap.control import ControlPlane, Policy
    from flowtap.dtcp import Result

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

    def __init__(self, control: ControlPlane) -> None:
        self._control = control
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
        tasked = [
            Tasked(session.principal, event.request)
            for session, event in batch
            if isinstance(event, RequestReceived)
        ]
        loop = asyncio.get_running_loop()
        results = iter(
            await loop.run_in_executor(self._executor, self._control.handle_all, tasked, clock.now())
        )
        sessions: dict[int, Session] = {}
        for session, event in batch:
            result = next(results) if isinstance(event, RequestReceived) else event.error
            session.answer(event, result)
            sessions[id(session)] = session
        for session in sessions.values():
            session.flush()

    async def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            ended = await loop.run_in_executor(self._executor, self._control.expire, clock.now())
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
