"""The daemon: puts the parts together, runs them, and ends them in the right order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import uuid
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Final

import asyncssh

from flowtap import FilterTable, Tap
from flowtap._flowtap import UsageFile, rights_held
from flowtap.config import LoadedConfiguration, load, read_secret
from flowtap.config.schema import endpoint
from flowtap.control import ControlPlane, PortError
from flowtap.delivery.paths import Paths
from flowtap.dtcp import Dialect
from flowtap.errors import ConfigurationError, DataPlaneError
from flowtap.service import clock
from flowtap.service.admission import Admission
from flowtap.service.broker import Broker, give_up_rights
from flowtap.service.dataplane import TapDataPlane
from flowtap.service.filters import FilterReader
from flowtap.service.logins import Logins
from flowtap.service.notify import Notifier
from flowtap.service.places import Places
from flowtap.service.policy import policy, rates, recipients, strict_sources
from flowtap.service.sd_notify import tell_manager
from flowtap.service.sequences import SequenceState, StrictOnly
from flowtap.service.show import ShowService
from flowtap.service.ssh import SshService
from flowtap.service.store import SqlStore
from flowtap.service.tasking import TaskingLoop
from flowtap.service.tunnels import Tunnels, check_tunnels, spool_key
from flowtap.service.udp import UdpService
from flowtap.service.usage import read_usage, usage_path
from flowtap.service.views import Views, may_view

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from flowtap import Stats
    from flowtap.config import Configuration
    from flowtap.config.schema import ElementSection
    from flowtap.control import Principal

__all__ = ["Daemon", "check", "serve"]

_LOG = logging.getLogger(__name__)

COLLECTIONS: Final = (5_000, 10, 10)
"""New objects before the youngest are searched for cycles, and how often before older ones are: what a cycle
keeps in memory until then is some ten megabytes at most."""
USAGE_S: Final = 1
"""After a crash, so much of what criteria without budgets have counted may not be known."""


def _host_key(configuration: LoadedConfiguration) -> asyncssh.SSHKey:
    key = "dtcp.ssh.host_key_file"
    content = read_secret(configuration, configuration.values.dtcp.ssh.host_key_file, key)
    try:
        return asyncssh.import_private_key(content + b"\n")
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
        raise ConfigurationError(
            f"{key}: holds no private key without a passphrase; ssh-keygen -t ed25519 -N '' makes one",
            key=key,
        ) from None


def check(configuration: LoadedConfiguration) -> None:
    """Checks everything that can be checked without starting: the files that the configuration names.

    Raises:
        ConfigurationError: One of them cannot be used.
    """
    _host_key(configuration)
    Logins(configuration)
    spool_key(configuration)
    check_tunnels(configuration)
    _check_sources(configuration)


def _check_sources(configuration: LoadedConfiguration) -> list[str]:
    replay = configuration.values.element.replay
    paths = [configuration.locate(name) for name in (replay.files if replay is not None else [])]
    for at, path in enumerate(paths):
        if not path.is_file():
            key = f"element.replay.files[{at}]"
            raise ConfigurationError(f"{key}: {path}: no such capture file", key=key)
    return [str(path) for path in paths]


def _places(element: ElementSection) -> Places:
    captured = element.interfaces if element.replay is None else element.replay.interfaces
    vrfs = {name: section.interfaces for name, section in element.vrf.items()}
    return Places(captured, element.interface_names, vrfs)


def _paths(values: Configuration) -> Paths:
    return Paths(values.tunnel, values.content_destination)


def _tap(element: ElementSection, files: list[str], broker: Broker, tunnels: Tunnels) -> Tap:
    """The tap over what the configuration names, without criteria."""
    nothing = FilterTable.compile([])
    replay = element.replay
    gates = list(tunnels.gates.values())
    spool_directory = tunnels.spool_directory if gates else None
    # The key may be there before anything is to wait on disk.
    key = None if spool_directory is None else tunnels.spool_key
    if replay is None:
        return Tap.live(
            element.interfaces,
            nothing,
            workers=element.workers,
            export=True,
            promiscuous=element.promiscuous,
            direction=element.direction,
            deduplicate_ms=element.deduplicate_ms,
            inner=element.inner,
            prefilter=element.prefilter,
            hardware_timestamps=element.hardware_timestamps,
            ring_octets=element.ring_mib << 20,
            broker=broker.socket,
            gates=gates,
            spool_directory=spool_directory,
            spool_key=key,
        )
    return Tap.replay(
        files,
        nothing,
        pace=replay.pace,
        loop=replay.loop,
        wait_for_criteria=int(replay.wait_for_criteria),
        broker=broker.socket,
        gates=gates,
        spool_directory=spool_directory,
        spool_key=key,
        interface=next(iter(replay.interfaces), None),
        inner=element.inner,
    )


def _own(
    ssh: list[tuple[str, int]], udp: list[tuple[str, int]]
) -> list[tuple[int, IPv4Address | IPv6Address | None, int]]:
    """The control channels, which are never tapped: protocol, address (None for all of this host), port."""
    endpoints = [
        *((socket.IPPROTO_TCP, *each) for each in ssh),
        *((socket.IPPROTO_UDP, *each) for each in udp),
    ]
    own = []
    for protocol, text, port in endpoints:
        address = ip_address(text)
        own.append((protocol, None if address.is_unspecified else address, port))
    return own


class Daemon:
    """A tap with everything around it.

    Args:
        configuration: What it is made from.
        broker: Opens what needs a right.
        tunnels: The protected paths, all shut.

    Raises:
        ConfigurationError: Something that the configuration names cannot be used.
        PermissionMissingError: A right is missing.
    """

    def __init__(self, configuration: LoadedConfiguration, broker: Broker, tunnels: Tunnels) -> None:
        self._broker = broker
        self._tunnels = tunnels
        self._exclusion = "not proven yet"
        values = configuration.values
        self._path = configuration.path
        self._reloading: asyncio.Task[None] | None = None
        files = _check_sources(configuration)
        host_key = _host_key(configuration)
        logins = Logins(configuration, tunnels.gates)
        self.name = values.element.name
        self._store_path = configuration.locate(values.store.path)
        anchor = values.audit.anchor_file
        self._store = SqlStore(
            self._store_path,
            journal=values.store.journal,
            anchor=None if anchor is None else configuration.locate(anchor),
        )
        self._notifier = Notifier(recipients(values), logins)
        places = _places(values.element)
        self._tap = _tap(values.element, files, broker, tunnels)
        usage = usage_path(self._store_path)
        self._used_before = read_usage(usage)
        try:
            self._usage = UsageFile(str(usage), uuid.UUID(clock.boot_id()).bytes)
        except OSError as error:
            raise ConfigurationError(f"store.path: {error.strerror}", key="store.path") from None
        data_plane = self._data_plane = TapDataPlane(self._tap, places, self._usage, _paths(values))
        data_plane.limit(rates(values))
        self._control = ControlPlane(
            policy=policy(values),
            store=self._store,
            data_plane=data_plane,
            filters=FilterReader(places),
            wall=lambda: clock.now().wall,
        )
        sequences = SequenceState(self._store.sequences())
        self._tasking = TaskingLoop(self._control, self._notifier, sequences)
        self._checked_over_ssh = StrictOnly(sequences, strict_sources(values))
        ssh = values.dtcp.ssh
        self._ssh = SshService(
            listen=[endpoint(text) for text in ssh.listen],
            patient=tunnels.local_networks,
            host_key=host_key,
            logins=logins,
            admission=Admission(connection_limit=ssh.connection_limit, rate_limit=ssh.rate_limit),
            tasking=self._tasking,
            sequences=self._checked_over_ssh,
            dialect=Dialect(ssh.dialect),
        )
        self._udp = UdpService(
            listen=[endpoint(text) for text in values.dtcp.udp.listen],
            patient=tunnels.local_networks,
            logins=logins,
            sequences=sequences,
            tasking=self._tasking,
        )
        # Notifications are known by where they come from: where they go may change with a reload.
        self._tap.exclude(_own(self._ssh.addresses, [*self._udp.addresses, *self._notifier.open()]))
        self._tap.exclude_tunnels(tunnels.own())
        tunnels.on_change = self._ssh.ways_changed
        views = Views(self._control, self._tasking, data_plane, sequences, tunnels)
        self._show = ShowService(
            configuration.locate(values.show.socket),
            logins,
            {
                "content-destinations": views.content_destinations,
                "control-sources": views.control_sources,
                "intercepts": views.intercepts,
                "security-associations": self._associations,
                "sessions": self._sessions,
                "stats": self._with_name(views.stats),
                "status": self._status,
            },
            {
                "approve": views.approve,
                "reject": views.reject,
                "clear criteria": views.clear_criteria,
                "clear sequence-number": views.clear_sequence,
                "tunnel": views.change_tunnel,
            },
        )

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where DTCP over SSH listens."""
        return self._ssh.addresses

    def _with_name(
        self, view: Callable[[Principal], Awaitable[dict[str, Any]]]
    ) -> Callable[[Principal], Awaitable[dict[str, Any]]]:
        async def named(principal: Principal) -> dict[str, Any]:
            return {"name": self.name, **await view(principal)}

        return named

    async def _sessions(self, principal: Principal) -> dict[str, Any]:
        may_view(principal)
        return {"sessions": self._ssh.session_values()}

    async def _associations(self, principal: Principal) -> dict[str, Any]:
        may_view(principal)
        return {"tunnels": self._tunnels.values()}

    async def _status(self, principal: Principal) -> dict[str, Any]:
        may_view(principal)
        return {
            "name": self.name,
            "ssh": [f"{address}:{port}" for address, port in self.addresses],
            "udp": [f"{address}:{port}" for address, port in self._udp.addresses],
            "finished": self._tap.finished,
            "error": self._tap.error,
            "interfaces": [
                f"{each.interface}: {'up' if each.is_up else 'down'}, filter: {each.filter}"
                for each in (await self._tasking.act(self._data_plane.stats)).captures
            ],
            "broker": self._broker.state,
            "broker_rights": list(self._broker.rights),
            "own_rights": rights_held(),
            "guard": self._tunnels.guard_state,
            "tunnels": [f"{each['name']}: {each['state']}" for each in self._tunnels.values()],
            "exclusion": self._exclusion,
        }

    async def run(self) -> Stats:
        """Runs until INT or TERM; HUP reloads, USR1 writes the counters to the log.

        Returns:
            The last account.
        """
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        loop.add_signal_handler(signal.SIGUSR1, self._log_counters)
        loop.add_signal_handler(signal.SIGHUP, self._begin_reload)
        # Before anything can be copied. What is wrong with it keeps gates shut, and is looked at again.
        for fault in await self._tunnels.install_guard():
            _LOG.error("guard of tunnels: %s", fault)
        # A tap on the interface that carries its tunnel would copy its own copies, for ever; rather none.
        self._tap.prove_exclusion()
        self._tap.start()
        await self._restore()
        # Now with the content destinations of what runs.
        self._tap.prove_exclusion()
        self._exclusion = "proven"
        tasks = [
            asyncio.create_task(self._tasking.run()),
            asyncio.create_task(self._ssh.run()),
            asyncio.create_task(self._udp.run()),
            asyncio.create_task(self._show.run()),
            asyncio.create_task(self._watch_broker()),
            asyncio.create_task(self._keep_usage()),
        ]
        protecting = asyncio.create_task(self._tunnels.run())
        waiting = asyncio.create_task(ended.wait())
        for address, port in self.addresses:
            _LOG.info("%s: DTCP over SSH on %s port %d", self.name, address, port)
        for address, port in self._udp.addresses:
            _LOG.info("%s: DTCP over UDP on %s port %d", self.name, address, port)
        tell_manager("READY=1")
        try:
            done, _ = await asyncio.wait([*tasks, protecting, waiting], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {waiting}:
                task.result()
        finally:
            tell_manager("STOPPING=1")
            for task in [*tasks, waiting]:
                task.cancel()
            await asyncio.gather(*tasks, waiting, return_exceptions=True)
            # The last copies leave through the tunnels; then nothing does any more.
            stats = await asyncio.to_thread(self._tap.stop)
            protecting.cancel()
            await asyncio.gather(protecting, return_exceptions=True)
            now = clock.now()
            self._usage.write(stats, clock.wall_ns(now), now.monotonic_ns)
            self._usage.finish()
            self._notifier.close()
            self._store.close()
        return stats

    async def _watch_broker(self) -> None:
        """Says when the rights are gone; what is open stays open."""
        if self._broker.state == "none":
            _LOG.warning(
                "no broker: this process was started without the right CAP_NET_RAW, so foreign source"
                " addresses and live capture cannot be had"
            )
        else:
            await self._broker.ended()
            _LOG.error("the broker has ended: nothing that needs a right can be opened until a restart")
        await asyncio.Event().wait()

    async def _restore(self) -> None:
        """Goes on with what an earlier run has left, and tells every control source that had something."""
        rows = self._store.running()
        if not rows:
            self._usage.publish()
            return
        try:
            await self._tasking.act(
                self._control.restore,
                rows,
                self._used_before,
                ended_without_record=self._store.ended_without_record,
                boot_id=clock.boot_id(),
                now=clock.now(),
            )
        except PortError as error:
            raise DataPlaneError(f"what an earlier run has left cannot go on: {error}") from None
        self._usage.publish()
        now = clock.now()
        for each in await self._tasking.act(self._control.resumed, now):
            self._tasking.tell(each, now)

    async def _keep_usage(self) -> None:
        """Writes down what was used, each second, and what has happened to interfaces."""
        while True:
            await asyncio.sleep(USAGE_S)
            for event in self._tap.events():
                _LOG.warning("%s", event)
            try:
                await self._tasking.act(self._data_plane.write_usage)
            except PortError as error:
                _LOG.error("what was used could not be written down: %s", error)

    def _begin_reload(self) -> None:
        self._reloading = asyncio.create_task(self._reload())

    async def _reload(self) -> None:
        """Takes over logins, control sources and content destinations; a wrong file changes nothing."""
        try:
            configuration = load(self._path)
            logins = Logins(configuration, self._tunnels.gates)
            self._tunnels.refuse_changes(configuration)
        except ConfigurationError as error:
            _LOG.error("not reloaded, nothing of it: %s", error)
            return
        values = configuration.values
        rules, limits, told = policy(values), rates(values), recipients(values)
        # Nothing of the file can be wrong any more.
        self._checked_over_ssh.apply(strict_sources(values))
        self._ssh.apply(logins)
        self._udp.logins = self._show.logins = logins
        self._notifier.apply(told, logins)
        self._tunnels.say_what_stays(values)
        for name in self._data_plane.send_along(_paths(values)):
            _LOG.warning("content destination %s: what runs goes on with the spool that it has", name)
        ended = await self._tasking.act(self._control.apply_policy, rules, clock.now())
        for each in ended:
            _LOG.warning("criteria %d of %s ended: no longer permitted", each.criteria_id, each.csource_id)
        try:
            await self._tasking.act(self._data_plane.limit, limits)
        except PortError as error:
            _LOG.error("reloaded, but for the rates of what runs already: %s", error)
            return
        _LOG.info("reloaded %s; sources and listening addresses change with a restart", self._path)

    def _log_counters(self) -> None:
        stats = self._tap.stats()
        _LOG.info(
            "%d frames, %d matched, %d copied, %d exported, %d dropped",
            stats.frames,
            stats.matched,
            stats.copied,
            stats.exported,
            stats.dropped,
        )


def _spare_collections() -> None:
    """Lets the interpreter look for cycles less often: intercepts have none, and there are many of them.

    Each full search stops requests for as long as it takes to visit every intercept. What has been loaded by
    now stays for good and need not be visited.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTIONS)


def _allow_descriptors() -> None:
    """As many descriptors as the system allows: connections and the sockets of copies share them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def serve(path: Path) -> Stats:
    """Runs the daemon of a configuration file until a signal ends it.

    Returns:
        The last account.

    Raises:
        ConfigurationError: The configuration is wrong.
        PermissionMissingError: A right is missing.
    """
    configuration = load(path)
    _allow_descriptors()
    broker = Broker(configuration.values.element.interfaces)
    tunnels = None
    try:
        tunnels = Tunnels(configuration)
        daemon = Daemon(configuration, broker, tunnels)
        # Everything that listens is open now, and no thread has begun.
        give_up_rights()
        if os.geteuid() == 0:
            _LOG.warning(
                "runs as root: without capabilities, but root's files are open to it; give it a user of its"
                " own, as the unit of `flowtap config systemd-unit` does"
            )
        _spare_collections()
        return asyncio.run(daemon.run())
    finally:
        if tunnels is not None:
            tunnels.close()
        broker.close()
