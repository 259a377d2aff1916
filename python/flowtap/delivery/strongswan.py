"""A tunnel that strongSwan keeps up: told over VICI what to do, watched, and its gate held.

strongSwan is a service of its own and outlives this program, and so do its associations: nothing is unloaded
at the end. What it is told a second time it compares with what it knows, and leaves alone what is the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

from flowtap.complaints import Complaints
from flowtap.delivery.associations import associations, events
from flowtap.delivery.connection import (
    load_connection,
    load_secrets,
    refuse_old,
    shared_secret_id,
    wanted_children,
)
from flowtap.delivery.states import POLL_S, TunnelMachine
from flowtap.delivery.tunnel import TunnelState, TunnelStatus
from flowtap.delivery.vici import DaemonGoneError, RefusedError, Vici
from flowtap.errors import TunnelError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowtap.config.tunnels import TunnelSection
    from flowtap.delivery.associations import IkeAssociation
    from flowtap.delivery.credentials import TunnelSecrets
    from flowtap.delivery.states import Decision
    from flowtap.delivery.tunnel import GateLike, GuardLike
    from flowtap.delivery.vici import Heard, Reply, Tree

__all__ = ["StrongSwanTunnel"]

_LOG = logging.getLogger(__name__)

GUARD_S: Final = 5.0
"""Between two looks at the guard where nobody tells of a change, and at whether strongSwan still knows the
connection."""
VERIFY_S: Final = 5.0
"""A look at the guard takes some hundredths of a second; what took longer than this proves nothing."""
CALM_S: Final = 0.2
"""Between two looks at a guard that is changed all the time."""
RECONNECT_MAX_S: Final = 5.0
INITIATE_S: Final = 10.0
"""How long one attempt to come up may take."""
LISTINGS_MAX: Final = 3
AGAIN_S: Final = 0.1
"""A listing takes no longer than this, nor does an association to move."""
REPLY_S: Final = 3.0
"""Beyond what strongSwan was told to take at most."""
_EVENTS: Final = ("ike-updown", "child-updown", "child-rekey", "ike-rekey", "ike-update")
_LOG_EVENT: Final = "log"


class StrongSwanTunnel:
    """One tunnel.

    Args:
        name: As in the configuration; strongSwan's connection has it too.
        section: The configuration.
        secrets: What this side proves itself with.
        gate: Opened while the tunnel is up, and shut otherwise.
        guard: Verified before.
        on_change: Told of every change of state or reason.
        place: Its number among the tunnels between the same gateways; None where it is alone.

    Raises:
        ConfigurationError: There is no such tunnel.
    """

    def __init__(
        self,
        name: str,
        section: TunnelSection,
        *,
        secrets: TunnelSecrets,
        gate: GateLike,
        guard: GuardLike,
        on_change: Callable[[TunnelStatus], None],
        place: int | None = None,
    ) -> None:
        self._name = name
        self._section = section
        self._gate = gate
        self._guard = guard
        self._on_change = on_change
        self._secrets = load_secrets(name, section, secrets)
        self._connection = load_connection(name, section, secrets, place)
        self._complaints = Complaints(_LOG)
        self._machine = TunnelMachine(section, wanted_children(name, section), time.monotonic())
        self._guard_lock = asyncio.Lock()
        self._heard: Heard | None = None
        self._wants_load = False
        self._is_closed = False
        self._said: tuple[TunnelState, str] | None = None
        self._logged = ""
        self._reason = "it was not begun yet"

    @property
    def name(self) -> str:
        """As in the configuration."""
        return self._name

    @property
    def status(self) -> TunnelStatus:
        """How it is with it."""
        return TunnelStatus(
            name=self._name,
            state=self._machine.state,
            reason=self._reason,
            since_s=self._machine.since_s,
            associations=self._machine.found,
            guard_faults=self._machine.guard_faults or (),
            is_legacy=self._section.legacy,
        )

    async def run(self) -> None:
        """Keeps it up until cancelled; the gate is shut before anything else then.

        Raises:
            RuntimeError: It was closed before.
        """
        if self._is_closed:
            raise RuntimeError("a tunnel that was closed does not run again")
        self._warn()
        try:
            await self._verify_guard(install=True)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch_guard())
                group.create_task(self._keep(group))
                try:
                    await asyncio.Event().wait()
                finally:
                    # Before the others are told to end, and waited for.
                    self.close()
        finally:
            self.close()

    def close(self) -> None:
        """Shuts the gate for good. The guard stays, and so does what strongSwan has."""
        if self._is_closed:
            return
        self._is_closed = True
        self._gate.shut(self._machine.in_doubt_s(time.monotonic()))

    def _warn(self) -> None:
        if self._section.legacy:
            _LOG.warning(
                "tunnel %s is legacy: it may use IKEv1 and algorithms that are no longer recommended",
                self._name,
            )
        if self._section.certificate_file is not None and self._section.remote_id is None:
            _LOG.warning(
                "tunnel %s has no remote_id: whoever has a certificate of its authority is taken for the"
                " other side",
                self._name,
            )

    # -- for operators

    async def up(self) -> None:
        """Brings it up, if it was taken down, and tries at once in any case."""
        self._machine.release(time.monotonic())
        self._wants_load = True
        self._settle()

    async def down(self) -> None:
        """Takes it down and keeps it so: the gate is shut, then the other side is told.

        Raises:
            TunnelError: strongSwan has not done it; the gate is shut all the same.
        """
        self._machine.hold(time.monotonic())
        self._settle()
        timeout_ms = str(int(INITIATE_S * 1000))
        message = {"ike": self._name, "timeout": timeout_ms}
        try:
            await self._command("terminate", message, stream="control-log", timeout_s=INITIATE_S + REPLY_S)
        except RefusedError as error:
            if "no matching" not in str(error):
                raise

    async def rekey(self, what: Literal["child", "ike"] = "child") -> None:
        """Changes the keys now, of what carries copies or of the negotiation itself.

        Raises:
            TunnelError: strongSwan has not done it, or there is nothing to make new keys for.
        """
        messages = [{"ike": self._name}]
        if what == "child":
            children = wanted_children(self._name, self._section)
            messages = [{"child": each.name, "ike": self._name} for each in children]
        for message in messages:
            await self._command("rekey", message)

    async def unload(self) -> None:
        """Takes it down and makes strongSwan forget it; for a tunnel that is no longer configured.

        Raises:
            TunnelError: strongSwan has not done it.
        """
        await self.down()
        await self._command("unload-conn", {"name": self._name})
        if any(command == "load-shared" for command, _ in self._secrets):
            await self._command("unload-shared", {"id": shared_secret_id(self._name)})

    async def _command(
        self, command: str, message: dict[str, str], *, stream: str | None = None, timeout_s: float = REPLY_S
    ) -> Reply:
        # A connection of its own: listings go on meanwhile.
        async with Vici.connect(self._section.vici_socket) as vici:
            return await vici.request(command, message, stream=stream, timeout_s=timeout_s)

    # -- the guard

    async def _watch_guard(self) -> None:
        seen = 0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(GUARD_S):
                    seen = await self._guard.changed(seen)
            await self._verify_guard(install=False)
            if self._machine.guard_faults:
                # Whoever flushes a firewall takes the guard with him. Nothing leaves until it is back.
                await self._verify_guard(install=True)
            await asyncio.sleep(CALM_S)

    async def _verify_guard(self, *, install: bool) -> None:
        async with self._guard_lock:
            faults = await self._ask_guard(self._guard.install) if install else []
            if not faults:
                asked_s = time.monotonic()
                faults = await self._look_at_guard()
                self._machine.guarded(faults, asked_s)
            else:
                self._machine.guarded(faults, time.monotonic())
        self._settle()

    async def _look_at_guard(self) -> list[str]:
        """What is wrong with the guard; where that takes long, nothing leaves meanwhile."""
        looking = asyncio.create_task(self._ask_guard(self._guard.verify))
        try:
            done, _ = await asyncio.wait({looking}, timeout=VERIFY_S)
            if done:
                return looking.result()
            late = [f"nobody could look at it within {VERIFY_S:g} s"]
            self._machine.guarded(late, time.monotonic())
            self._settle()
            # Not asked again before that is answered.
            return await looking or late
        finally:
            looking.cancel()

    async def _ask_guard(self, question: Callable[[], Awaitable[list[str]]]) -> list[str]:
        try:
            return await question()
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing may leave without the guard
            return [f"it cannot be verified: {error!r}"]

    # -- strongSwan

    async def _keep(self, group: asyncio.TaskGroup) -> None:
        wait_s = POLL_S / 4
        while True:
            try:
                async with (
                    Vici.connect(self._section.vici_socket) as commands,
                    Vici.connect(self._section.vici_socket) as listening,
                    listening.events(*_EVENTS, _LOG_EVENT, lossy=frozenset({_LOG_EVENT})) as heard,
                ):
                    refuse_old((await commands.request("version")).message)
                    await self._load(commands)
                    self._heard = heard
                    self._machine.daemon_ready(time.monotonic())
                    wait_s = POLL_S / 4
                    looked_s = time.monotonic()
                    while True:
                        await self._look(commands, heard, group)
                        await self._listen(heard, POLL_S)
                        if self._wants_load or time.monotonic() - looked_s >= GUARD_S:
                            self._wants_load = False
                            looked_s = time.monotonic()
                            await self._load_again(commands)
            except TunnelError as error:
                self._heard = None
                self._machine.daemon_gone(str(error), time.monotonic())
                self._settle()
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RECONNECT_MAX_S)

    async def _load(self, commands: Vici) -> None:
        for command, message in self._secrets:
            await commands.request(command, message)
        if not self._machine.is_held:
            # It would come up by itself.
            await commands.request("load-conn", self._connection)

    async def _load_again(self, commands: Vici) -> None:
        """Loads the connection if somebody has unloaded it, as ``swanctl --load-all`` does."""
        known = (await commands.request("get-conns")).message.get("conns", [])
        if self._name not in known and not self._machine.is_held:
            text = "tunnel %s: strongSwan knows it no more; it is told again"
            self._complaints.warning("load", text, self._name)
            await self._load(commands)

    async def _look(self, commands: Vici, heard: Heard, group: asyncio.TaskGroup) -> None:
        """Takes a listing and does what follows from it."""
        asked_s = time.monotonic()
        # Without waiting for associations that are being worked on, others' among them.
        found = await self._list(commands, {"ike": self._name, "noblock": "yes"})
        for _ in range(LISTINGS_MAX):
            if not self._machine.would_lose(found):
                break
            # Something is left out, or moves from one association to the next while they are listed. If it is
            # lost, an event says so; without one it is asked for again, with patience.
            again_s = asked_s + AGAIN_S
            while (rest_s := again_s - time.monotonic()) > 0 and self._machine.would_lose(found):
                await self._listen(heard, rest_s)
            asked_s = time.monotonic()
            found = await self._list(commands, {"ike": self._name})
        self._machine.saw(found, asked_s)
        decision = self._settle()
        if decision.verify:
            await self._verify_guard(install=False)
            decision = self._settle()
        if decision.initiate:
            self._machine.initiating()
            group.create_task(self._initiate(decision))

    async def _list(self, commands: Vici, which: dict[str, str]) -> tuple[IkeAssociation, ...]:
        listed = await commands.request("list-sas", which, stream="list-sa")
        return associations(listed.streamed, self._name)

    async def _listen(self, heard: Heard, timeout_s: float) -> None:
        """Takes what strongSwan tells, as soon as it does."""
        for kind, message in await heard.wait(timeout_s):
            self._hear(kind, message)
        self._settle()

    def _catch_up(self, heard: Heard) -> None:
        """Takes what was told so far, and that nothing more will be; who listens finds the end as well."""
        try:
            for kind, message in heard.taken():
                self._hear(kind, message)
        except TunnelError as error:
            heard.end(DaemonGoneError(str(error)))
        if heard.ended is not None:
            self._heard = None
            self._machine.daemon_gone(str(heard.ended), time.monotonic())

    def _hear(self, kind: str, message: Tree) -> None:
        if kind == _LOG_EVENT:
            line = message.get("msg")
            if message.get("ikesa-name") == self._name and isinstance(line, str):
                self._machine.tell(line)
            return
        for event in events(kind, message, self._name):
            self._machine.heard(event, time.monotonic())

    async def _initiate(self, decision: Decision) -> None:
        timeout_ms = str(int(INITIATE_S * 1000))
        try:
            for unique_id in decision.terminate:
                await self._command(
                    "terminate",
                    {"child-id": str(unique_id), "timeout": str(int(REPLY_S * 1000))},
                    stream="control-log",
                    timeout_s=REPLY_S * 2,
                )
            for name in decision.initiate:
                await self._command(
                    "initiate",
                    {"child": name, "ike": self._name, "timeout": timeout_ms, "loglevel": "1"},
                    stream="control-log",
                    timeout_s=INITIATE_S + REPLY_S,
                )
        except RefusedError as error:
            for line in error.streamed:
                if isinstance(text := line.get("msg"), str):
                    self._machine.tell(text)
            self._machine.tell(str(error))
        except TunnelError as error:
            self._machine.tell(str(error))
        finally:
            self._machine.initiated(time.monotonic())
        self._settle()

    # -- what follows

    def _settle(self) -> Decision:
        """Does at once with the gate what the machine decides, and tells who wants to know."""
        if self._heard is not None:
            # Whoever was busy elsewhere must not open on what was over meanwhile.
            self._catch_up(self._heard)
        decision = self._machine.decide(time.monotonic())
        if not self._is_closed:
            if decision.in_doubt_s is not None:
                self._gate.shut(decision.in_doubt_s)
            if decision.is_open:
                self._gate.open()
        self._reason = decision.reason
        if self._said != (decision.state, decision.reason):
            self._say(decision)
        return decision

    def _say(self, decision: Decision) -> None:
        self._said = (decision.state, decision.reason)
        if decision.is_telling and self._logged != decision.reason:
            self._logged = decision.reason
            say = self._complaints.info if decision.state is TunnelState.UP else self._complaints.warning
            say(decision.state, "tunnel %s is %s: %s", self._name, decision.state.value, decision.reason)
        self._on_change(self.status)
