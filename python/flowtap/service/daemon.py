"""The daemon: puts the parts together, runs them, and ends them in the right order."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import asyncssh

from flowtap import FilterTable, Tap
from flowtap.config import LoadedConfiguration, load, read_secret
from flowtap.config.schema import endpoint
from flowtap.control import ContentDestination, ControlPlane, ControlSource, Policy
from flowtap.dtcp import Delivery, Dialect, Parameter, Status, Version
from flowtap.errors import ConfigurationError
from flowtap.service import clock
from flowtap.service.admission import Admission
from flowtap.service.dataplane import TapDataPlane, check_filter
from flowtap.service.logins import Logins
from flowtap.service.notify import Notifier, Recipient
from flowtap.service.sequences import SequenceState, StrictOnly
from flowtap.service.show import ShowService, stats_value
from flowtap.service.ssh import SshService
from flowtap.service.store import SqlStore
from flowtap.service.tasking import TaskingLoop
from flowtap.service.udp import UdpService

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowtap import Stats

__all__ = ["Daemon", "check", "serve"]

_LOG = logging.getLogger(__name__)


def _policy(configuration: LoadedConfiguration) -> Policy:
    values = configuration.values
    return Policy(
        control_sources={
            name: ControlSource(
                id=name,
                allowed_destinations=frozenset(source.allowed_destinations),
                max_criteria=source.max_criteria,
                max_lifetime_s=source.max_lifetime_s,
            )
            for name, source in values.control_source.items()
        },
        content_destinations={
            name: ContentDestination(
                id=name,
                delivery=Delivery(
                    section.address,
                    section.port,
                    section.source_address,
                    section.source_port,
                    section.ttl,
                ),
                refuse_oversize=section.oversize == "refuse",
            )
            for name, section in values.content_destination.items()
        },
    )


def _recipients(configuration: LoadedConfiguration) -> dict[str, Recipient]:
    recipients = {}
    for name, source in configuration.values.control_source.items():
        version = None
        if source.notification_version is not None:
            major, _, minor = source.notification_version.partition(".")
            version = Version(int(major), int(minor))
        targets = tuple(endpoint(text) for text in source.notification_targets)
        recipients[name] = Recipient(targets, version)
    return recipients


def _strict(configuration: LoadedConfiguration) -> frozenset[str]:
    sources = configuration.values.control_source.items()
    return frozenset(name for name, source in sources if source.sequence == "strict")


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
    _check_sources(configuration)


def _check_sources(configuration: LoadedConfiguration) -> list[str]:
    replay = configuration.values.element.replay
    paths = [configuration.locate(name) for name in (replay.files if replay is not None else [])]
    for at, path in enumerate(paths):
        if not path.is_file():
            key = f"element.replay.files[{at}]"
            raise ConfigurationError(f"{key}: {path}: no such capture file", key=key)
    return [str(path) for path in paths]


class Daemon:
    """A tap with everything around it.

    Args:
        configuration: What it is made from.

    Raises:
        ConfigurationError: Something that the configuration names cannot be used.
        PermissionMissingError: A right is missing.
    """

    def __init__(self, configuration: LoadedConfiguration) -> None:
        values = configuration.values
        self._path = configuration.path
        self._reloading: asyncio.Task[None] | None = None
        replay = values.element.replay
        files = _check_sources(configuration)
        host_key = _host_key(configuration)
        logins = Logins(configuration)
        self.name = values.element.name
        self._store = SqlStore(configuration.locate(values.store.path))
        self._notifier = Notifier(_recipients(configuration), logins)
        self._end_what_ran()
        self._tap = Tap.replay(
            files,
            FilterTable.compile([]),
            pace=replay.pace if replay is not None else "recorded",
            loop=replay.loop if replay is not None else False,
            wait_for_criteria=replay.wait_for_criteria if replay is not None else False,
        )
        data_plane = TapDataPlane(self._tap)
        control = ControlPlane(
            policy=_policy(configuration),
            store=self._store,
            data_plane=data_plane,
            check=check_filter,
        )
        self._tasking = TaskingLoop(control, self._notifier)
        sequences = SequenceState(self._store.sequences())
        ssh = values.dtcp.ssh
        self._ssh = SshService(
            listen=[endpoint(text) for text in ssh.listen],
            host_key=host_key,
            logins=logins,
            admission=Admission(connection_limit=ssh.connection_limit, rate_limit=ssh.rate_limit),
            tasking=self._tasking,
            sequences=StrictOnly(sequences, _strict(configuration)),
            dialect=Dialect(ssh.dialect),
        )
        self._udp = UdpService(
            listen=[endpoint(text) for text in values.dtcp.udp.listen],
            logins=logins,
            sequences=sequences,
            tasking=self._tasking,
        )
        self._show = ShowService(
            configuration.locate(values.show.socket),
            {"stats": lambda: self._stats(data_plane.stats), "status": self._status},
        )

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where DTCP over SSH listens."""
        return self._ssh.addresses

    def _stats(self, stats: Callable[[], Stats]) -> dict[str, Any]:
        return {"name": self.name, **stats_value(stats())}

    def _status(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ssh": [f"{address}:{port}" for address, port in self.addresses],
            "udp": [f"{address}:{port}" for address, port in self._udp.addresses],
            "finished": self._tap.finished,
            "error": self._tap.error,
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
        self._tap.start()
        tasks = [
            asyncio.create_task(self._tasking.run()),
            asyncio.create_task(self._ssh.run()),
            asyncio.create_task(self._udp.run()),
            asyncio.create_task(self._show.run()),
        ]
        waiting = asyncio.create_task(ended.wait())
        for address, port in self.addresses:
            _LOG.info("%s: DTCP over SSH on %s port %d", self.name, address, port)
        for address, port in self._udp.addresses:
            _LOG.info("%s: DTCP over UDP on %s port %d", self.name, address, port)
        try:
            done, _ = await asyncio.wait([*tasks, waiting], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {waiting}:
                task.result()
        finally:
            for task in [*tasks, waiting]:
                task.cancel()
            await asyncio.gather(*tasks, waiting, return_exceptions=True)
            stats = await asyncio.to_thread(self._tap.stop)
            self._notifier.close()
            self._store.close()
        return stats

    def _end_what_ran(self) -> None:
        """Records the end of what an earlier run left, and tells every control source that had some."""
        lost = Counter(row.csource_id for row in self._store.running())
        now = clock.now().wall
        left = self._store.end_all(now, "restart")
        if left:
            _LOG.warning("%d criteria of an earlier run have ended with it; they must be added again", left)
        for csource_id, count in lost.items():
            info = Parameter("Alert-Info", f"restarted; 0 of {count} criteria restored")
            self._notifier.notify(csource_id, Status.SERVER_RESTART, (info,), now)

    def _begin_reload(self) -> None:
        self._reloading = asyncio.create_task(self._reload())

    async def _reload(self) -> None:
        """Takes over logins, control sources and content destinations; a wrong file changes nothing."""
        try:
            configuration = load(self._path)
            logins = Logins(configuration)
        except ConfigurationError as error:
            _LOG.error("not reloaded: %s", error)
            return
        self._ssh.logins = self._udp.logins = logins
        self._notifier.apply(_recipients(configuration), logins)
        await self._tasking.apply_policy(_policy(configuration))
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


def serve(path: Path) -> Stats:
    """Runs the daemon of a configuration file until a signal ends it.

    Returns:
        The last account.

    Raises:
        ConfigurationError: The configuration is wrong.
        PermissionMissingError: A right is missing.
    """
    return asyncio.run(Daemon(load(path)).run())
